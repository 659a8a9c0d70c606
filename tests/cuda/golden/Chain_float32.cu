// Chain_float32: arithmetic in float32, 4 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 4;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    double clip_by_global_norm_max_norm;
    float h1;  // (1 - (AdamW_lr * AdamW_weight_decay))
    float h2;  // (1 - AdamW_beta1)
    float AdamW_beta2;
    float h4;  // (1 - AdamW_beta2)
    float h5;  // (1 - (AdamW_beta2 ** AdamW_t))
    float h6;  // (AdamW_lr / (1 - (AdamW_beta1 ** AdamW_t)))
    float AdamW_eps;
    float average_decay;
    float h9;  // (1 - average_decay)
    float u37;
    float u39;
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, float& w, const float g, float& AdamW_m, float& AdamW_v, float&
        average_average)
{
    const float t0 = h.u39 * (h.u37 * g);
    const float new_AdamW_m = AdamW_m - h.h2 * AdamW_m + h.h2 * t0;
    const float new_AdamW_v = h.AdamW_beta2 * AdamW_v + h.h4 * (t0 * t0);
    const float new_w = h.h1 * w - h.h6 * new_AdamW_m / (sqrtf(new_AdamW_v / h.h5) + h.AdamW_eps);
    const float new_average_average = h.average_decay * average_average + h.h9 * new_w;
    w = new_w;
    AdamW_m = new_AdamW_m;
    AdamW_v = new_AdamW_v;
    average_average = new_average_average;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* AdamW_m;
    float* AdamW_v;
    float* average_average;
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
    const long long first = leaf.row * 10;
    h.clip_by_global_norm_max_norm = __longlong_as_double((long long)word(step, first + 0));
    h.h1 = __uint_as_float((unsigned)word(step, first + 1));
    h.h2 = __uint_as_float((unsigned)word(step, first + 2));
    h.AdamW_beta2 = __uint_as_float((unsigned)word(step, first + 3));
    h.h4 = __uint_as_float((unsigned)word(step, first + 4));
    h.h5 = __uint_as_float((unsigned)word(step, first + 5));
    h.h6 = __uint_as_float((unsigned)word(step, first + 6));
    h.AdamW_eps = __uint_as_float((unsigned)word(step, first + 7));
    h.average_decay = __uint_as_float((unsigned)word(step, first + 8));
    h.h9 = __uint_as_float((unsigned)word(step, first + 9));
    const double sum0 = __ldcg(step.sums + 0 * step.columns + step.columns - 1);
    const double sum6 = __ldcg(step.sums + 6 * step.columns + step.columns - 1);
    const double sum12 = __ldcg(step.sums + 12 * step.columns + step.columns - 1);
    const double t0 = sqrt(sum0 + sum6 * 0x1.0000000000000p-600 * 0x1.0000000000000p-600);
    const double t1 = sqrt(sum6 + sum12 * 0x1.0000000000000p-600 * 0x1.0000000000000p-600);
    const double t2 = sum0 != 0.0 ? 0x1.0000000000000p+600 * t0 : (sum6 != 0.0 ? t1 :
        0x1.0000000000000p-600 * sqrt(sum12));
    const double t3 = (t2 > h.clip_by_global_norm_max_norm) || (t2 != t2) ? t2 :
        h.clip_by_global_norm_max_norm;
    const double t4 = h.clip_by_global_norm_max_norm / t3;
    const double t5 = t4 < 0x1.0000000000000p-100 ? 0x1.0000000000000p-100 : 1.0;
    const float u37 = (float)t5;
    const float u39 = (float)(t4 / t5);
    h.u37 = u37;
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

extern "C" __global__ void __launch_bounds__(THREADS, 2)
Chain_float32(const __grid_constant__ Step step)
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
    float* const AdamW_m = leaf.AdamW_m + start;
    GLOBAL(AdamW_m);
    float* const AdamW_v = leaf.AdamW_v + start;
    GLOBAL(AdamW_v);
    float* const average_average = leaf.average_average + start;
    GLOBAL(average_average);

    const bool aligned = ((bits(w) | bits(g) | bits(AdamW_m) | bits(AdamW_v) |
        bits(average_average)) & 15) == 0;
    const int whole = aligned ? count / V * V : 0;
    #pragma unroll 1  // other blocks, not more code, keep the memory busy
    for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {
        Pack<float> w_pack = pack(w, i);
        Pack<float> g_pack = pack(g, i);
        Pack<float> AdamW_m_pack = pack(AdamW_m, i);
        Pack<float> AdamW_v_pack = pack(AdamW_v, i);
        Pack<float> average_average_pack = pack(average_average, i);
        #pragma unroll
        for (int k = 0; k < V; ++k)
            update(h, w_pack.at[k], g_pack.at[k], AdamW_m_pack.at[k], AdamW_v_pack.at[k],
                average_average_pack.at[k]);
        pack(w, i) = w_pack;
        pack(AdamW_m, i) = AdamW_m_pack;
        pack(AdamW_v, i) = AdamW_v_pack;
        pack(average_average, i) = average_average_pack;
    }

    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {
        float w_i = w[i];
        float g_i = g[i];
        float AdamW_m_i = AdamW_m[i];
        float AdamW_v_i = AdamW_v[i];
        float average_average_i = average_average[i];
        update(h, w_i, g_i, AdamW_m_i, AdamW_v_i, average_average_i);
        w[i] = w_i;
        AdamW_m[i] = AdamW_m_i;
        AdamW_v[i] = AdamW_v_i;
        average_average[i] = average_average_i;
    }
}
