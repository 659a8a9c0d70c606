"""The canonical sum (`numerics.canonical_sum`) as CUDA C++: what every pass with sums contains."""

from instep.numerics import LANES

#: What begins the names of the functions of a kind of reduction.
PREFIX = {"sum": "", "maximum": "max_"}

#: What a reduction begins with, as C++.
BEGIN = {"sum": "0.0", "maximum": "__longlong_as_double(0xfff0000000000000ll)"}

#: The function that takes the larger of two numbers, or the one that is NaN.
LARGER = """\
__device__ __forceinline__ double larger(const double a, const double b)
{
    return b > a || b != b ? b : a;
}"""


def combined(kind: str, a: str, b: str) -> str:
    """Return the statement that adds `b` to `a`, or takes it if it is larger."""
    return f"{a} += {b};" if kind == "sum" else f"{a} = larger({a}, {b});"


def add_up(kind: str) -> str:
    """Return the function for a tree whose leaves have been summed."""
    return f"""\
// The {kind} over the tree: those of the tensors, in their order.
__device__ __forceinline__ void {PREFIX[kind]}add_up(
    double* const lanes, double* const row, const long long count)
{{
    double total = {BEGIN[kind]};
    for (long long start = 0; start < count; start += LANES) {{
        const int part = (int)min(count - start, (long long)LANES);
        __syncthreads();
        for (int i = threadIdx.x; i < part; i += blockDim.x)
            lanes[i] = __ldcg(row + start + i);
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < part; ++i)
                {combined(kind, "total", "lanes[i]")}
    }}
    if (threadIdx.x == 0)
        row[count] = total;
}}"""


def lane_of(expression: str) -> str:
    """Return the function that tells which lanes a thread has: the one of number `k`."""
    return f"""\
// One of the lanes of a thread.
__device__ __forceinline__ int lane(const int k)
{{
    return {expression};
}}"""


def tensor_sum(kind: str) -> str:
    """Return the functions of a sum over one tensor, or of its maximum.

    They are for blocks of `THREADS` threads with `V` lanes each, which `lane` tells.
    """
    return f"""\
// The lanes, folded by halves. All threads get the result.
__device__ __forceinline__ double {PREFIX[kind]}fold(double* const lanes, const double (&mine)[V])
{{
    __syncthreads();
    for (int k = 0; k < V; ++k)
        lanes[lane(k)] = mine[k];
    #pragma unroll 1
    for (int width = LANES / 2; width > 0; width /= 2) {{
        __syncthreads();
        #pragma unroll 1
        for (int k = threadIdx.x; k < width; k += THREADS)
            {combined(kind, "lanes[k]", "lanes[k + width]")}
    }}
    __syncthreads();
    return lanes[0];
}}

// The canonical {kind} of those of several tiles, which are overwritten where they are more than a
// tile. Other multiprocessors wrote them, so they are read past the first-level cache.
__device__ __forceinline__ void {PREFIX[kind]}canonical_sum(
    double* const lanes, double* const values, long long count, double* const result)
{{
    while (count > 1) {{
        const long long tiles = (count + TILE - 1) / TILE;
        for (long long tile = 0; tile < tiles; ++tile) {{
            {lanes_of(kind, "mine")}
            const long long end = min(count, (tile + 1) * TILE);
            #pragma unroll 1
            for (long long i = tile * TILE; i < end; i += LANES)
                #pragma unroll
                for (int k = 0; k < V; ++k)
                    if (i + lane(k) < end)
                        {combined(kind, "mine[k]", "__ldcg(values + i + lane(k))")}
            const double total = {PREFIX[kind]}fold(lanes, mine);
            if (threadIdx.x == 0)
                (tiles > 1 ? values : result)[tile] = total;
        }}
        __syncthreads();
        count = tiles;
    }}
}}"""


def lanes_of(kind: str, name: str) -> str:
    """Return the declaration of the lanes of a thread."""
    if kind == "sum":
        return f"double {name}[V] = {{}};"
    return f"double {name}[V]; for (int k = 0; k < V; ++k) {name}[k] = {BEGIN[kind]};"


#: What tells that all blocks have done their part.
LAST = """\
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

#: Names and texts of the kernels that add up a tree in which several launches have a part.
ADD_UP_KERNELS = {
    kind: (
        f"{PREFIX[kind]}add_up_tree",
        f"""\
// The {kind} of a tree, of those of its tensors.
constexpr int LANES = {LANES};

{LARGER}

{add_up(kind)}

extern "C" __global__ void __launch_bounds__(LANES)
{PREFIX[kind]}add_up_tree(double* const row, const long long count)
{{
    __shared__ double lanes[LANES];
    {PREFIX[kind]}add_up(lanes, row, count);
}}
""",
    )
    for kind in PREFIX
}
