// LAMB_float32: arithmetic in float32, 4 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 4;
constexpr int NEAR = 496;
constexpr int LANES = 1024;
constexpr int TILE = 16384;

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
};

// The summands of one element, added to a lane.
__device__ __forceinline__ void accumulate(
    const Uniform& h, const float w, const float g, const float m, const float v, double& sum1,
        double& sum7)
{
    const float t0 = h.h5 * (h.beta1 * m + h.h1 * g) / (sqrtf((h.beta2 * v + h.h3 * (g * g)) / h.h4)
        + h.eps);
    const double t1 = (double)w;
    const double t2 = (double)(t0 + h.weight_decay * w);
    sum1 += (double)(t1 * t1);
    sum7 += (double)(t2 * t2);
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

// One of the lanes of a thread.
__device__ __forceinline__ int lane(const int k)
{
    return V * threadIdx.x + k;
}

// The lanes, folded by halves. All threads get the result.
__device__ __forceinline__ double fold(double* const lanes, const double (&mine)[V])
{
    __syncthreads();
    for (int k = 0; k < V; ++k)
        lanes[lane(k)] = mine[k];
    #pragma unroll 1
    for (int width = LANES / 2; width > 0; width /= 2) {
        __syncthreads();
        #pragma unroll 1
        for (int k = threadIdx.x; k < width; k += THREADS)
            lanes[k] += lanes[k + width];
    }
    __syncthreads();
    return lanes[0];
}

// The canonical sum of those of several tiles, which are overwritten where they are more than a
// tile. Other multiprocessors wrote them, so they are read past the first-level cache.
__device__ __forceinline__ void canonical_sum(
    double* const lanes, double* const values, long long count, double* const result)
{
    while (count > 1) {
        const long long tiles = (count + TILE - 1) / TILE;
        for (long long tile = 0; tile < tiles; ++tile) {
            double mine[V] = {};
            const long long end = min(count, (tile + 1) * TILE);
            #pragma unroll 1
            for (long long i = tile * TILE; i < end; i += LANES)
                #pragma unroll
                for (int k = 0; k < V; ++k)
                    if (i + lane(k) < end)
                        mine[k] += __ldcg(values + i + lane(k));
            const double total = fold(lanes, mine);
            if (threadIdx.x == 0)
                (tiles > 1 ? values : result)[tile] = total;
        }
        __syncthreads();
        count = tiles;
    }
}

// Whether this block is the last of `count` to come here, so that it sees what all have written.
__device__ __forceinline__ bool last(unsigned* const arrived, const long long count)
{
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(arrived, 1u) == count - 1;
        if (is_last)
            *arrived = 0;
        __threadfence();
    }
    __syncthreads();
    return is_last;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
LAMB_float32_sums(const __grid_constant__ Step step)
{
    alignas(16) __shared__ double lanes[LANES];  // stages hold elements of up to 16 bytes
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * TILE;
    const int count = (int)min(leaf.size - start, (long long)TILE);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0)) + start;
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);
    float* const m = leaf.m + start;
    GLOBAL(m);
    float* const v = leaf.v + start;
    GLOBAL(v);

    // A thread has V lanes, and meets their elements in increasing order.
    double sum1[V] = {};
    double sum7[V] = {};
    int i = V * threadIdx.x;

    const bool aligned = ((bits(w) | bits(g) | bits(m) | bits(v)) & 15) == 0;
    if (aligned) {
        #pragma unroll 4  // loads of four rows in flight: a tile has few threads
        for (; i + V <= count; i += LANES) {
            const Pack<float> w_pack = pack(w, i);
            const Pack<float> g_pack = pack(g, i);
            const Pack<float> m_pack = pack(m, i);
            const Pack<float> v_pack = pack(v, i);
            #pragma unroll
            for (int k = 0; k < V; ++k)
                accumulate(h, w_pack.at[k], g_pack.at[k], m_pack.at[k], v_pack.at[k], sum1[k],
                    sum7[k]);
        }
    }

    #pragma unroll 1
    for (; i < count; i += LANES)
        #pragma unroll
        for (int k = 0; k < V; ++k) {
            if (i + k >= count)
                break;
            float w_i = w[i + k];
            float g_i = g[i + k];
            float m_i = m[i + k];
            float v_i = v[i + k];
            accumulate(h, w_i, g_i, m_i, v_i, sum1[k], sum7[k]);
        }
    const double partial1 = fold(lanes, sum1);
    const double partial7 = fold(lanes, sum7);

    if (threadIdx.x == 0) {
        step.partials[0 * (long long)gridDim.x + blockIdx.x] = partial1;
        step.partials[1 * (long long)gridDim.x + blockIdx.x] = partial7;
    }

    // The last block of a tensor sums the tiles. The sum of a single one is that of the tensor.
    const long long tiles = leaf.size > TILE ? (leaf.size + TILE - 1) / TILE : 1;
    if (tiles > 1) {
        if (!last(step.arrived + number, tiles))
            return;
        canonical_sum(lanes, step.partials + 0 * (long long)gridDim.x + leaf.first_block, tiles,
            step.sums + 1 * step.columns + leaf.position);
        canonical_sum(lanes, step.partials + 1 * (long long)gridDim.x + leaf.first_block, tiles,
            step.sums + 7 * step.columns + leaf.position);
    } else if (threadIdx.x == 0) {
        step.sums[1 * step.columns + leaf.position] = partial1;
        step.sums[7 * step.columns + leaf.position] = partial7;
    }
}
