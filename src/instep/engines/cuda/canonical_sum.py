"""The canonical sum (`numerics.canonical_sum`) as CUDA C++: what every pass with sums contains."""

from instep.numerics import LANES

#: The sum over a tree whose leaves have been summed.
ADD_UP = """\
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
}"""


def lane_of(expression: str) -> str:
    """Return the function that tells which lanes a thread has: the one of number `k`."""
    return f"""\
// One of the lanes of a thread.
__device__ __forceinline__ int lane(const int k)
{{
    return {expression};
}}"""


#: The parts of a sum over one tensor, for blocks of `THREADS` threads with `V` lanes each, which
#: `lane` tells.
TENSOR_SUM = """\
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

// The canonical sum of the sums of tiles, which are overwritten. They were written by other
// multiprocessors, so they are read past the first-level cache.
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
                values[tile] = total;
        }
        __syncthreads();
        count = tiles;
    }
    if (threadIdx.x == 0)
        *result = __ldcg(values);
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
}"""

#: Name and text of the kernel that adds up a tree in which several launches have a part.
ADD_UP_NAME = "add_up_tree"
ADD_UP_KERNEL = f"""\
// Adds up the sums of the tensors of a tree.
constexpr int LANES = {LANES};

{ADD_UP}

extern "C" __global__ void __launch_bounds__(LANES)
{ADD_UP_NAME}(double* const row, const long long count)
{{
    __shared__ double lanes[LANES];
    add_up(lanes, row, count);
}}
"""
