// Chain_float32: arithmetic in float32, 4 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 4;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    float Momentum_momentum;
    float h1;  // (Momentum_lr * xp.where((Momentum_t == 1), 1.0, (1 - Momentum_dampening)))
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, float& w, const float g, float& Momentum_v)
{
    const float new_Momentum_v = h.Momentum_momentum * Momentum_v - h.h1 * g;
    const float new_w = w + new_Momentum_v;
    w = new_w;
    Momentum_v = new_Momentum_v;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* Momentum_v;
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

// How many steps were taken of which the host does not know.
__device__ __forceinline__ long long candidate(const Step& step)
{
    return *step.taken - step.known;
}

// Whether no element of the tree forbids the step.
__device__ __forceinline__ bool allowed(const Step& step)
{
    return __ldcg(step.sums + 0 * step.columns + step.columns - 1) == 0.0;
}

__device__ __forceinline__ Uniform uniform(const Step& step, const Leaf& leaf)
{
    Uniform h;
    const long long first = (candidate(step) * step.rows + leaf.row) * 2;
    h.Momentum_momentum = __uint_as_float((unsigned)word(step, first + 0));
    h.h1 = __uint_as_float((unsigned)word(step, first + 1));
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
Chain_float32(const __grid_constant__ Step step)
{
    if (!(step.candidates >> candidate(step) & 1) || !allowed(step))
        return;
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0)) + start;
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);
    float* const Momentum_v = leaf.Momentum_v + start;
    GLOBAL(Momentum_v);

    const bool aligned = ((bits(w) | bits(g) | bits(Momentum_v)) & 15) == 0;
    const int whole = aligned ? count / V * V : 0;
    #pragma unroll 1  // other blocks, not more code, keep the memory busy
    for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {
        Pack<float> w_pack = pack(w, i);
        Pack<float> g_pack = pack(g, i);
        Pack<float> Momentum_v_pack = pack(Momentum_v, i);
        #pragma unroll
        for (int k = 0; k < V; ++k)
            update(h, w_pack.at[k], g_pack.at[k], Momentum_v_pack.at[k]);
        pack(w, i) = w_pack;
        pack(Momentum_v, i) = Momentum_v_pack;
    }

    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {
        float w_i = w[i];
        float g_i = g[i];
        float Momentum_v_i = Momentum_v[i];
        update(h, w_i, g_i, Momentum_v_i);
        w[i] = w_i;
        Momentum_v[i] = Momentum_v_i;
    }
}
