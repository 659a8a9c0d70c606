// LAMB_float32: arithmetic in float32, 4 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 4;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    float beta1;
    float h1;  // (1 - beta1)
    float beta2;
    float h3;  // (1 - beta2)
    float h4;  // (1 - (beta2 ** t))
    float h5;  // (1 / (1 - (beta1 ** t)))
    float eps;
    float weight_decay;
    double lr;
    float u39;
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, float& w, const float g, float& m, float& v)
{
    const float new_m = h.beta1 * m + h.h1 * g;
    const float new_v = h.beta2 * v + h.h3 * (g * g);
    const float t0 = h.h5 * new_m / (sqrtf(new_v / h.h4) + h.eps) + h.weight_decay * w;
    const float new_w = w - h.u39 * t0;
    w = new_w;
    m = new_m;
    v = new_v;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* m;
    float* v;
};

// A step: hyperparameters of every row, then the addresses of parameter and gradient of every
// tensor, as words of 64 bits. The first of them travel with the launch.
struct Step {
    const Leaf* leaves;
    const int* leaf_of_block;
    const unsigned long long* far;
    double* sums;       // a row for every sum; columns: the tensors, and the tree
    double* partials;   // the sums of tiles
    unsigned* arrived;  // blocks that are done, for every tensor; and tensors that are done
    const long long* taken;
    long long chunk;    // elements of a block
    long long pairs;    // the first word that is an address
    long long columns;  // of the table of sums
    long long tree;     // tensors of the tree, if this launch has them all
    // Of a guarded step: the host knows of `known` steps, and prepared a launch for each number
    // of steps that may have been taken by now. The device knows how many were.
    long long known;
    long long candidates;  // the bit of every number of steps that this launch is for
    long long rows;        // of hyperparameters, for each of them
    unsigned long long near[NEAR];
};

__device__ __forceinline__ unsigned long long word(const Step& step, const long long i)
{
    return i < NEAR ? step.near[i] : step.far[i - NEAR];
}

// The compiler cannot see that an address from a table is one of global memory; where it knows,
// it uses the faster instructions for it. (A host compiler has one kind of memory only.)
#ifdef __GNUC__
#define GLOBAL(address)
#else
#define GLOBAL(address) __builtin_assume(__isGlobal(address))
#endif

__device__ __forceinline__ Uniform uniform(const Step& step, const Leaf& leaf)
{
    Uniform h;
    const long long first = leaf.row * 9;
    h.beta1 = __uint_as_float((unsigned)word(step, first + 0));
    h.h1 = __uint_as_float((unsigned)word(step, first + 1));
    h.beta2 = __uint_as_float((unsigned)word(step, first + 2));
    h.h3 = __uint_as_float((unsigned)word(step, first + 3));
    h.h4 = __uint_as_float((unsigned)word(step, first + 4));
    h.h5 = __uint_as_float((unsigned)word(step, first + 5));
    h.eps = __uint_as_float((unsigned)word(step, first + 6));
    h.weight_decay = __uint_as_float((unsigned)word(step, first + 7));
    h.lr = __longlong_as_double((long long)word(step, first + 8));
    const double sum1 = __ldcg(step.sums + 1 * step.columns + leaf.position);
    const double sum7 = __ldcg(step.sums + 7 * step.columns + leaf.position);
    const double t0 = sqrt(sum1);
    const double t1 = sqrt(sum7);
    const float u39 = (float)(h.lr * ((t0 > 0.0) && (t1 > 0.0) ? t0 / t1 : 1.0));
    h.u39 = u39;
    return h;
}

// V elements that lie side by side.
template <typename T>
struct alignas(16) Pack {
    T at[V];
};

template <typename T>
__device__ __forceinline__ Pack<T>& pack(T* const address, const int i)
{
    return *reinterpret_cast<Pack<T>*>(address + i);
}

__device__ __forceinline__ unsigned long long bits(const void* const address)
{
    return reinterpret_cast<unsigned long long>(address);
}

extern "C" __global__ void __launch_bounds__(THREADS)
LAMB_float32(const __grid_constant__ Step step)
{
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0)) + start;
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);
    float* const m = leaf.m + start;
    GLOBAL(m);
    float* const v = leaf.v + start;
    GLOBAL(v);

    const bool aligned = ((bits(w) | bits(g) | bits(m) | bits(v)) & 15) == 0;
    const int whole = aligned ? count / V * V : 0;
    #pragma unroll 1  // other blocks, not more code, keep the memory busy
    for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {
        Pack<float> w_pack = pack(w, i);
        Pack<float> g_pack = pack(g, i);
        Pack<float> m_pack = pack(m, i);
        Pack<float> v_pack = pack(v, i);
        #pragma unroll
        for (int k = 0; k < V; ++k)
            update(h, w_pack.at[k], g_pack.at[k], m_pack.at[k], v_pack.at[k]);
        pack(w, i) = w_pack;
        pack(m, i) = m_pack;
        pack(v, i) = v_pack;
    }

    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {
        float w_i = w[i];
        float g_i = g[i];
        float m_i = m[i];
        float v_i = v[i];
        update(h, w_i, g_i, m_i, v_i);
        w[i] = w_i;
        m[i] = m_i;
        v[i] = v_i;
    }
}
