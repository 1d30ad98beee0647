// What the kernels of scan.cu share: sizes, arguments, places, and how numbers are read, staged, summed and stored.

constexpr int T = TILE, S = STATES;
constexpr int QUAD = 16 / sizeof(acc_t);
constexpr int ROW = T + QUAD;       // a row of staged numbers: aligned for Quad, and spread over the banks
constexpr int STAGE = 2 * S * ROW;  // B and C of S states
constexpr int SUMS = 2 * T + 1;     // a row of sums over lanes: T for the gradient of C, T for that of B
constexpr int THREADS = 128;        // of a block, at most
constexpr int BATCH = 8;            // segments that are carried across at a time
constexpr bool SINGLE = sizeof(acc_t) == 4;
// Blocks per multiprocessor, which limits registers: to 168 in scan_backward with three, just enough from Turing to Hopper.
#ifdef __CUDA_ARCH__
constexpr bool TURING_TO_HOPPER = __CUDA_ARCH__ >= 750 && __CUDA_ARCH__ < 1000, OLDER = __CUDA_ARCH__ < 750;
#else
constexpr bool TURING_TO_HOPPER = true, OLDER = false;
#endif
constexpr int FORWARD_BLOCKS = !SINGLE ? 3 : OLDER ? 4 : 5, BACKWARD_BLOCKS = SINGLE && TURING_TO_HOPPER ? 3 : 2;

struct alignas(16) Quad { acc_t of[QUAD]; };

#define SERIES(type, name) const type *name, index_t name##_batch, index_t name##_channel, index_t name##_step
#define GROUPED(type, name) const type *name, index_t name##_batch, index_t name##_group, index_t name##_state, index_t name##_step
#define INPUTS                                                                                                              \
  index_t batches, index_t groups, index_t width, index_t length, index_t states, index_t segments, index_t segment_length, \
  index_t reverse, SERIES(U_TYPE, u), SERIES(DELTA_TYPE, delta), SERIES(Z_TYPE, z), GROUPED(B_TYPE, B), GROUPED(C_TYPE, C), \
  const acc_t *A, const acc_t *D, const acc_t *bias
#define GIVEN                                                                                                     \
  batches, groups, width, length, states, segments, segment_length, reverse, u, u_batch, u_channel, u_step, delta,     \
  delta_batch, delta_channel, delta_step, z, z_batch, z_channel, z_step, B, B_batch, B_group, B_state, B_step, C, \
  C_batch, C_group, C_state, C_step, A, D, bias

// What a block works on. It stands in shared memory, for registers are dear and it is seldom looked at. Threads past the last
// channel of their group are not active: they only help to stage and to sum.
struct Place {
  int batch, row, channels, first, last, made_step, start, begin, end, block, group, segment;
};
constexpr int HEAD = 64;  // bytes at the beginning of shared memory, for a Place

__device__ __forceinline__ Place place(
    index_t groups, index_t width, index_t length, index_t segments, index_t segment_length, index_t reverse) {
  const int blocks = ((int)width + blockDim.x - 1) / blockDim.x;
  int rest = blockIdx.x;
  Place p;
  p.block = rest % blocks, rest /= blocks;
  p.group = rest % (int)groups, rest /= (int)groups;
  p.segment = rest % (int)segments, p.batch = rest / (int)segments, p.row = rest;
  p.first = p.group * width + p.block * blockDim.x;
  p.last = width - 1 - p.block * blockDim.x;
  p.channels = groups * width;
  p.made_step = reverse ? -p.channels : p.channels;
  p.start = reverse ? 1 - length : 0;
  p.begin = p.start + p.segment * segment_length;
  p.end = p.segment < segments - 1 ? p.begin + segment_length : p.start + length;
  return p;
}
__device__ __forceinline__ char* shared_bytes() {
  SHARED_MEMORY(bytes);
  return bytes;
}
__device__ __forceinline__ acc_t* memory() { return (acc_t*)(shared_bytes() + HEAD); }
#define PLACE(p)                                                                                    \
  Place& p = *(Place*)shared_bytes();                                                               \
  if (threadIdx.x == 0) p = place(groups, width, length, segments, segment_length, reverse);     \
  __syncthreads()

// The same number, of which the compiler knows nothing, so that it computes addresses again instead of keeping them in registers.
__device__ __forceinline__ int opaque(int x) {
#ifndef ON_HOST
  asm volatile("" : "+r"(x));
#endif
  return x;
}
#define ACTIVE ((int)threadIdx.x <= p.last)
#define CHANNEL (p.first + (ACTIVE ? opaque(threadIdx.x) : p.last))
#define AT(x, t) (x + opaque(p.batch) * x##_batch + CHANNEL * x##_channel + opaque(t) * x##_step)
#define GROUP_AT(x, t) (x + p.batch * x##_batch + p.group * x##_group + opaque(t) * x##_step)
#define CHANNEL_LAST_AT(x, t) (x + opaque(p.batch) * length * p.channels + CHANNEL + opaque(t) * (index_t)p.made_step)
#define STATES_AT(row) ((index_t)(row) * N * p.channels + CHANNEL)
#define BORDER (borders + (p.batch * ((length + T - 1) / T) + (t0 - p.start) / T) * N * p.channels)

#define STEPS (p.end - t0 < T ? p.end - t0 : T)

// The number of step t of a tile.
template <class X> __device__ __forceinline__ acc_t get(const X* tile, index_t step, int t) {
  return wide(*(const X*)((const char*)tile + (index_t)t * (int)(step * sizeof(X))));
}

// Stores a number if it is `there`. The instruction itself carries the condition: a branch would draw the loads that the number
// needs behind it, where each waits for the one before.
#ifdef ON_HOST
template <class X> void put(acc_t value, X* at, bool there) { if (there) narrow(value, at); }
#else
#define PUT(type, bits, constraint, member)                                                                           \
  __device__ __forceinline__ void put(acc_t value, type* at, bool there) {                                            \
    type x;                                                                                                           \
    narrow(value, &x);                                                                                                \
    asm volatile("{ .reg .pred p; .reg .u64 a; setp.ne.s32 p, %2, 0; cvta.to.global.u64 a, %0;"                       \
                 " @p st.global." bits " [a], %1; }" ::"l"(at), constraint(x member), "r"((int)there));              \
  }
PUT(float, "f32", "f", )
PUT(double, "f64", "d", )
PUT(bf16, "u16", "h", .bits)
PUT(fp16, "u16", "h", .bits)
#endif

// Rows of B or C: the steps of a tile for S states from n0 on, zero past the end.
template <class X>
__device__ __forceinline__ void stage(const X* tile, index_t state, index_t step, int steps, int n0, int N, acc_t* rows) {
  const int n = threadIdx.x % S;
  const X* column = tile + (n0 + n) * state;
#pragma unroll 1
  for (int t = threadIdx.x / S; t < T; t += blockDim.x / S)
    rows[n * ROW + t] = n0 + n < N && t < steps ? wide(column[t * step]) : (acc_t)0;
}

// log(1 + e) for e in [0, 1], without a branch: an interpolant at Chebyshev's points, right to 2e-7 of the result.
__device__ __forceinline__ float log_one_plus_unit(float e) {
  const float terms[] = {0.999999995f, -0.499998926f, 0.333297105f, -0.249516163f, 0.196632743f,
                         -0.152696671f, 0.105436238f, -0.0563736132f, 0.0195425274f, -0.00317605706f};
  float sum = terms[9];
#pragma unroll
  for (int i = 8; i >= 0; i--) sum = sum * e + terms[i];
  return sum * e;
}
__device__ __forceinline__ double log_one_plus_unit(double e) { return log1p(e); }

__device__ __forceinline__ acc_t step_size(acc_t raw) {
  if (!SOFTPLUS) return raw;
  return (raw > 0 ? raw : (acc_t)0) + log_one_plus_unit(power_of_two((raw > 0 ? -raw : raw) * LOG2_E));
}
__device__ __forceinline__ acc_t slope(acc_t raw) { return SOFTPLUS ? sigmoid(raw) : (acc_t)1; }

// Sums over the lanes of a warp: lane i ends with that of v[i % T]. Every exchange halves how many each lane is left with.
template <int HALF = T / 2> __device__ __forceinline__ acc_t lane_sums(acc_t (&v)[T]) {
  const bool upper = threadIdx.x & HALF;
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const acc_t kept = upper ? v[i + HALF] : v[i], sent = upper ? v[i] : v[i + HALF];
    v[i] = kept + __shfl_xor_sync(0xffffffff, sent, HALF);
  }
  if constexpr (HALF > 1) {
    return lane_sums<HALF / 2>(v);
  } else {
#pragma unroll
    for (int mask = T; mask < 32; mask *= 2) v[0] += __shfl_xor_sync(0xffffffff, v[0], mask);
    return v[0];
  }
}
