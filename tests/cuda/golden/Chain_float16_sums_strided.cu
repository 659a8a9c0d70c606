// Chain_float16: arithmetic in float32, stage by stage.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.
#include <cuda_fp16.h>

constexpr int THREADS = 128;
constexpr int V = 8;
constexpr int E = 8;  // a thread takes at once
constexpr int BATCH = E > V ? E : V;
constexpr int ROOM = 48128;
constexpr int NEAR = 496;
constexpr int LANES = 1024;
constexpr int TILE = 16384;

// What is the same for all elements of a tensor.
struct Uniform {};

// The summands of one element, added to a lane.
__device__ __forceinline__ void accumulate(
    const Uniform& h, const __half g, double& sum6)
{
    const double t0 = (double)__half2float(g);
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

// Byte offsets of an element from the first one.
struct Offsets {
    long long g = 0;
};

// The layout: the elements of a stage; those of a line, if something goes through shared memory;
// the rows that have room there; the number of axes beside that of the rows; the bytes to where
// each array is in shared memory, 0 if it is not. Then for each axis, the last one first, its
// length and the bytes from one element to the next in every array.
//
// Where a row begins in each array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{
    GLOBAL(layout);
    Offsets at;
    const long long* axis = layout + 15;
    #pragma unroll 1
    for (long long rest = layout[3]; rest > 0; --rest, axis += 6) {
        const unsigned long long length = axis[0];
        const long long index = rest > 1 ? i % length : i;
        i = rest > 1 ? i / length : 0;
        at.g += index * axis[2];
    }
    return at;
}

template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}

// An element in shared memory. Neither those of a line nor those that follow each other in another
// one meet in a bank.
template <typename T>
__device__ __forceinline__ T& kept(double* const room, const long long bytes, const int i)
{
    return (&pointer(reinterpret_cast<T*>(room), bytes))[i ^ (i >> 5 & 31) ^ (i >> 10 & 31)];
}

// One of the lanes of a thread.
__device__ __forceinline__ int lane(const int k)
{
    return k * THREADS + threadIdx.x;
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

extern "C" __global__ void __launch_bounds__(THREADS, 4)
Chain_float16_sums_strided(const __grid_constant__ Step step)
{
    alignas(16) __shared__ double lanes[ROOM / sizeof(double)];  // stages hold elements of up to 16 bytes
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * TILE;
    const int count = (int)min(leaf.size - start, (long long)TILE);
    __half* const g = reinterpret_cast<__half*>(word(step, step.pairs + 2 * number + 1));
    GLOBAL(g);

    // A thread has V lanes, and meets their elements in increasing order.
    double sum6[V] = {};
    const long long* const layout = leaf.layout;
    GLOBAL(layout);
    const int stage = layout[0], room = layout[2];
    const long long line = layout[1], length = layout[9];
    const long long g_kept = layout[5];
    const long long g_along = layout[11];
    long long* const rows = reinterpret_cast<long long*>(lanes);
    #pragma unroll 1
    for (int first = 0; first < count; first += stage) {
        const int end = min(count, first + stage);
        const long long begin = (start + first) / length;
        const int many = (start + end - 1) / length - begin + 1;
        __syncthreads();  // the stage before is done
        #pragma unroll 1
        for (int j = threadIdx.x; j < many; j += THREADS) {
            const Offsets at = locate(layout, begin + j);
            const long long passed = (begin + j) * length - start;
            rows[0 * room + j] = at.g - passed * g_along;
        }
        __syncthreads();
        if (line) {
            // Along the lines, which are several, an array is read side by side.
            const long long ahead = (start + first) / line * line - start;
            const unsigned lines = (start + end - 1) / line - (start + first) / line + 1;
            const unsigned passed = start - begin * length, width = length;
            unsigned l = threadIdx.x % lines, p = threadIdx.x / lines;
            const unsigned all = lines * (unsigned)line;
            #pragma unroll 1
            for (unsigned j = threadIdx.x; j < all; j += E * THREADS) {
                int places[E];
                __half g_i[E];
                #pragma unroll
                for (int k = 0; k < E; ++k) {
                    const int i = (int)ahead + (int)(l * (unsigned)line + p);
                    const bool is_there = j + k * THREADS < all && i >= first && i < end;
                    places[k] = is_there ? i - first : -1;
                    if (is_there) {
                        const unsigned row = line == length ? l : (i + passed) / width;
                        if (g_kept)
                            g_i[k] = pointer(g, rows[0 * room + row] + i * g_along);
                    }
                    l += THREADS % lines;
                    p += THREADS / lines;
                    if (l >= lines) {
                        l -= lines;
                        ++p;
                    }
                }
                #pragma unroll
                for (int k = 0; k < E; ++k)
                    if (places[k] >= 0) {
                        if (g_kept)
                            kept<__half>(lanes, g_kept, places[k]) = g_i[k];
                    }
            }
            __syncthreads();
        }
        // A thread has every element of this number: in which row is it, and how much of that is
        // left?
        const long long here = start + first + threadIdx.x;
        int row = here / length - begin;
        const int most = min(length, 1ll << 30), over = THREADS % most, whole = THREADS / most;
        int left = min(length - here % length, 1ll << 30);
        #pragma unroll 1
        for (int begun = first + threadIdx.x; begun < end; begun += BATCH * THREADS)
            #pragma unroll
            for (int part = 0; part < BATCH; part += E) {
                __half g_i[E];
                #pragma unroll
                for (int k = 0; k < E; ++k) {
                    const int i = begun + (part + k) * THREADS;
                    if (i < end) {
                        if (g_kept)
                            g_i[k] = kept<__half>(lanes, g_kept, i - first);
                        else
                            g_i[k] = pointer(g, rows[0 * room + row] + i * g_along);
                    }
                    row += whole;
                    left -= over;
                    if (left <= 0) {
                        left += most;
                        ++row;
                    }
                }
                #pragma unroll
                for (int k = 0; k < E; ++k)
                    if (begun + (part + k) * THREADS < end)
                        accumulate(h, g_i[k], sum6[(part + k) % V]);
            }
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
