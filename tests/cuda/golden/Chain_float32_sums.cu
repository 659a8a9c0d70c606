// Chain_float32: arithmetic in float32, 4 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 4;
constexpr int NEAR = 496;
constexpr int LANES = 1024;
constexpr int TILE = 16384;

// What is the same for all elements of a tensor.
struct Uniform {};

// The summands of one element, added to a lane.
__device__ __forceinline__ void accumulate(
    const Uniform& h, const float g, double& sum6)
{
    const double t0 = (double)g;
    sum6 += (double)(t0 * t0);
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

// The sum over the tree: those of the tensors, in their order.
__device__ __forceinline__ void add_up(
    double* const lanes, double* const row, const long long count)
{
    double total = 0.0;
    for (long long start = 0; start < count; start += LANES) {
        const int part = (int)min(count - start, (long long)LANES);
        __syncthreads();
        for (int i = threadIdx.x; i < part; i += blockDim.x)
            lanes[i] = __ldcg(row + start + i);
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < part; ++i)
                total += lanes[i];
    }
    if (threadIdx.x == 0)
        row[count] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
Chain_float32_sums(const __grid_constant__ Step step)
{
    alignas(16) __shared__ double lanes[LANES];  // stages hold elements of up to 16 bytes
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * TILE;
    const int count = (int)min(leaf.size - start, (long long)TILE);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);

    // A thread has V lanes, and meets their elements in increasing order.
    double sum6[V] = {};
    int i = V * threadIdx.x;

    const bool aligned = ((bits(g)) & 15) == 0;
    if (aligned) {
        #pragma unroll 4  // loads of four rows in flight: a tile has few threads
        for (; i + V <= count; i += LANES) {
            const Pack<float> g_pack = pack(g, i);
            #pragma unroll
            for (int k = 0; k < V; ++k)
                accumulate(h, g_pack.at[k], sum6[k]);
        }
    }

    #pragma unroll 1
    for (; i < count; i += LANES)
        #pragma unroll
        for (int k = 0; k < V; ++k) {
            if (i + k >= count)
                break;
            float g_i = g[i + k];
            accumulate(h, g_i, sum6[k]);
        }
    const double partial6 = fold(lanes, sum6);

    if (threadIdx.x == 0) {
        step.partials[0 * (long long)gridDim.x + blockIdx.x] = partial6;
    }

    // The last block of a tensor sums the tiles. The sum of a single one is that of the tensor.
    const long long tiles = leaf.size > TILE ? (leaf.size + TILE - 1) / TILE : 1;
    if (tiles > 1) {
        if (!last(step.arrived + number, tiles))
            return;
        canonical_sum(lanes, step.partials + 0 * (long long)gridDim.x + leaf.first_block, tiles,
            step.sums + 6 * step.columns + leaf.position);
    } else if (threadIdx.x == 0) {
        step.sums[6 * step.columns + leaf.position] = partial6;
    }

    // The last tensor adds up the tree, if no other launch has a part in it.
    if (step.tree == 0 || !last(step.arrived + step.tree, step.tree))
        return;
    add_up(lanes, step.sums + 6 * step.columns, step.columns - 1);
}
