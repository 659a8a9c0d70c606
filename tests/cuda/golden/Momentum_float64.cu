// Momentum_float64: arithmetic in float64, 2 elements at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int V = 2;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    double momentum;
    double h1;  // (lr * xp.where((t == 1), 1.0, (1 - dampening)))
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, double& w, const double g, double& v)
{
    const double new_v = h.momentum * v - h.h1 * g;
    const double new_w = w + new_v;
    w = new_w;
    v = new_v;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    double* v;
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
    const long long first = leaf.row * 2;
    h.momentum = __longlong_as_double((long long)word(step, first + 0));
    h.h1 = __longlong_as_double((long long)word(step, first + 1));
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
Momentum_float64(const __grid_constant__ Step step)
{
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    double* const w = reinterpret_cast<double*>(word(step, step.pairs + 2 * number + 0)) + start;
    GLOBAL(w);
    double* const g = reinterpret_cast<double*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);
    double* const v = leaf.v + start;
    GLOBAL(v);

    const bool aligned = ((bits(w) | bits(g) | bits(v)) & 15) == 0;
    const int whole = aligned ? count / V * V : 0;
    #pragma unroll 1  // other blocks, not more code, keep the memory busy
    for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {
        Pack<double> w_pack = pack(w, i);
        Pack<double> g_pack = pack(g, i);
        Pack<double> v_pack = pack(v, i);
        #pragma unroll
        for (int k = 0; k < V; ++k)
            update(h, w_pack.at[k], g_pack.at[k], v_pack.at[k]);
        pack(w, i) = w_pack;
        pack(v, i) = v_pack;
    }

    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {
        double w_i = w[i];
        double g_i = g[i];
        double v_i = v[i];
        update(h, w_i, g_i, v_i);
        w[i] = w_i;
        v[i] = v_i;
    }
}
