// Chain_float32: arithmetic in float32, one tensor at a time.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    double dynamic_scale_interval;
    double dynamic_scale_backoff;
    double dynamic_scale_growth;
    double NovoGrad_beta2;
    double h4;  // (1 - NovoGrad_beta2)
    float h5;  // xp.where((NovoGrad_t == 1), 1.0, 0.0)
    double u22;
    double u23;
    double u34;
};

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in tensors
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* NovoGrad_m;
    double* number4;
    double* number5;
    double* number10;
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
    const long long first = (candidate(step) * step.rows + leaf.row) * 10;
    h.dynamic_scale_interval = __longlong_as_double((long long)word(step, first + 0));
    h.dynamic_scale_backoff = __longlong_as_double((long long)word(step, first + 1));
    h.dynamic_scale_growth = __longlong_as_double((long long)word(step, first + 2));
    h.NovoGrad_beta2 = __longlong_as_double((long long)word(step, first + 3));
    h.h4 = __longlong_as_double((long long)word(step, first + 4));
    h.h5 = __uint_as_float((unsigned)word(step, first + 5));
    const double sum0 = __ldcg(step.sums + 0 * step.columns + step.columns - 1);
    const double sum1 = __ldcg(step.sums + 1 * step.columns + leaf.position);
    const double sum4 = __ldcg(leaf.number4);
    const double sum5 = __ldcg(leaf.number5);
    const double sum10 = __ldcg(leaf.number10);
    const bool t0 = sum0 == 0.0;
    const double t1 = t0 ? sum10 + 1.0 : 0.0;
    const bool t2 = t1 >= h.dynamic_scale_interval;
    const double t3 = t2 ? h.dynamic_scale_growth : (t0 ? 1.0 : h.dynamic_scale_backoff);
    const double t4 = t3 * sum4;
    const double u22 = (t4 >= 0x1.0000000000000p-126) && (t4 <= 0x1.0000000000000p+126) ? t4 : sum4;
    const double u23 = t2 ? 0.0 : t1;
    const double t5 = sqrt(sum1);
    const double t6 = t5 * t5;
    const double u34 = h.h5 != 0.0f ? t6 : h.NovoGrad_beta2 * sum5 + h.h4 * t6;
    h.u22 = u22;
    h.u23 = u23;
    h.u34 = u34;
    return h;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
Chain_float32_numbers(const __grid_constant__ Step step)
{
    if (!(step.candidates >> candidate(step) & 1))
        return;
    for (long long number = threadIdx.x; number < step.chunk; number += THREADS) {
        const Leaf leaf = step.leaves[number];
        const Uniform h = uniform(step, leaf);
        if (allowed(step))
            *leaf.number5 = h.u34;
    }
    __syncthreads();  // all have read what the numbers of the tree were
    if (threadIdx.x == 0) {
        const Leaf leaf = step.leaves[0];
        const Uniform h = uniform(step, leaf);
        *leaf.number4 = h.u22;
        *leaf.number10 = h.u23;
    }
}
