// NovoGrad_float32: arithmetic in float32, one tensor at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    double beta2;
    double h1;  // (1 - beta2)
    float h2;  // xp.where((t == 1), 1.0, 0.0)
    double u12;
};

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in tensors
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* m;
    double* number5;
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
    long long chunk;    // tensors of a block
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
    const long long first = leaf.row * 7;
    h.beta2 = __longlong_as_double((long long)word(step, first + 0));
    h.h1 = __longlong_as_double((long long)word(step, first + 1));
    h.h2 = __uint_as_float((unsigned)word(step, first + 2));
    const double sum1 = __ldcg(step.sums + 1 * step.columns + leaf.position);
    const double sum5 = __ldcg(leaf.number5);
    const double t0 = sqrt(sum1);
    const double t1 = t0 * t0;
    const double u12 = h.h2 != 0.0f ? t1 : h.beta2 * sum5 + h.h1 * t1;
    h.u12 = u12;
    return h;
}

extern "C" __global__ void __launch_bounds__(THREADS)
NovoGrad_float32_numbers(const __grid_constant__ Step step)
{

    for (long long number = threadIdx.x; number < step.chunk; number += THREADS) {
        const Leaf leaf = step.leaves[number];
        const Uniform h = uniform(step, leaf);
        *leaf.number5 = h.u12;
    }
}
