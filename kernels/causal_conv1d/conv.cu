// Causal depthwise convolution with bias and silu, forward and backward; its formula is in definition.py.
//
// Lanes are neighbouring channels, so that channel-last memory is read coalesced; any other layout is right too, by its strides.
// A thread walks a piece of one row, TILE steps at a time, with the inputs that the filter still reads in registers. The backward
// pass computes the convolution again, and walks WIDTH - 1 steps beyond its piece, whose inputs reach that far. Each piece writes
// its own share of the gradients of weight and bias, which torch adds up in a fixed order.
//
// Defined by whoever compiles: the types ACC, X, WEIGHT, BIAS and STATES, and WIDTH, SILU (0 or 1), TILE and THREADS.

constexpr int BEFORE = WIDTH - 1;  // inputs that a step reads besides its own
// Blocks that a multiprocessor holds at least: what leaves registers enough, 40 and 102 a thread unless filters are wide.
constexpr bool NARROW = WIDTH <= 4 && sizeof(acc_t) == 4;
constexpr int FORWARD_BLOCKS = NARROW ? 12 : 1, BACKWARD_BLOCKS = NARROW ? 5 : 1;

// One channel of one batch element in the order of reading, from some step on.
template <class T> struct Row {
  T* next;
  index_t step;
  __device__ __forceinline__ Row(T* data, index_t step, index_t length, bool reverse, index_t from)
      : next(data + (reverse ? length - 1 - from : from) * step), step(reverse ? -step : step) {}
  __device__ __forceinline__ T* at(int t) const { return next + t * step; }
  __device__ __forceinline__ acc_t read_next(bool exists) {
    acc_t value = exists ? wide(*next) : (acc_t)0;
    next += step;
    return value;
  }
  __device__ __forceinline__ void write_next(T value, bool exists) {
    if (exists) *next = value;
    next += step;
  }
};

// Which steps of which row a thread walks.
struct Piece {
  index_t item, batch, channel, first;
  int size;
  __device__ __forceinline__ Piece(index_t channels, index_t length, index_t steps, index_t pieces) {
    unsigned blocks = ((unsigned)channels - 1) / blockDim.x + 1;  // of neighbouring channels
    unsigned block = blockIdx.x / blocks, row = block / (unsigned)pieces;
    item = block;
    batch = row;
    channel = (index_t)(blockIdx.x - block * blocks) * blockDim.x + threadIdx.x;
    first = (index_t)(block - row * (unsigned)pieces) * steps;
    size = length - first < steps ? length - first : steps;
  }
};

__device__ __forceinline__ acc_t filtered(const acc_t* inputs, const acc_t* w, acc_t bias) {
#pragma unroll
  for (int k = 0; k < WIDTH; k++) bias += w[k] * inputs[k];
  return bias;
}

// What both kernels are given. Names with a suffix are distances in memory between neighbours along a dimension.
#define GIVEN                                                                                                                  \
  const X *x, const WEIGHT *weight, const BIAS *bias, const STATES *states, index_t x_batch, index_t x_channel, index_t x_step, \
      index_t weight_channel, index_t weight_step, index_t bias_step, index_t states_batch, index_t states_channel,            \
      index_t states_step, index_t channels, index_t length, index_t steps, index_t pieces, index_t reverse

// The piece, its row of x, the filter w, the bias b, and inputs: those before the first step, from x, the initial states, or zero.
#define LOAD_GIVEN                                                                                                             \
  Piece piece(channels, length, steps, pieces);                                                                                \
  if (piece.channel >= channels) return;                                                                                       \
  Row<const X> row(x + piece.batch * x_batch + piece.channel * x_channel, x_step, length, reverse, piece.first);               \
  Row<const STATES> earlier(                                                                                                   \
      states + piece.batch * states_batch + piece.channel * states_channel, states_step, BEFORE, reverse, piece.first);        \
  acc_t w[WIDTH], b = bias ? wide(bias[piece.channel * bias_step]) : (acc_t)0;                                                 \
  acc_t inputs[BEFORE + TILE];                                                                                                 \
  _Pragma("unroll") for (int k = 0; k < WIDTH; k++) w[k] = wide(weight[piece.channel * weight_channel + k * weight_step]);     \
  _Pragma("unroll") for (int k = 0; k < BEFORE; k++) inputs[k] = piece.first >= BEFORE - k ? wide(*row.at(k - BEFORE))         \
                                                                 : states                  ? wide(*earlier.at(k))              \
                                                                                           : (acc_t)0

// Tells code for tiles whose every step counts, which are most, from code that must look.
template <bool VALUE> struct Whole { static constexpr bool value = VALUE; };

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) conv_forward(GIVEN, X* out) {
  LOAD_GIVEN;
  Row<X> out_row(out + piece.batch * length * channels + piece.channel, channels, length, reverse, piece.first);
  auto advance = [&](auto whole, int count) {
    X outputs[TILE];
#pragma unroll
    for (int i = 0; i < TILE; i++) inputs[BEFORE + i] = row.read_next(whole.value || i < count);
#pragma unroll
    for (int i = 0; i < TILE; i++) {
      acc_t y = filtered(inputs + i, w, b);
      narrow(SILU ? y * sigmoid(y) : y, outputs + i);
    }
#pragma unroll
    for (int i = 0; i < TILE; i++) out_row.write_next(outputs[i], whole.value || i < count);
#pragma unroll
    for (int k = 0; k < BEFORE; k++) inputs[k] = inputs[TILE + k];
  };
  int t = 0;
  for (; t + TILE <= piece.size; t += TILE) advance(Whole<true>(), TILE);
  if (t < piece.size) advance(Whole<false>(), piece.size - t);
}

// dx is channel-last, dstates as its shape says; partial (items, WIDTH + 1, channels) holds gradients of weight, then of bias.
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) conv_backward(
    GIVEN, const X* dout, index_t dout_batch, index_t dout_channel, index_t dout_step, X* dx, STATES* dstates, acc_t* partial) {
  LOAD_GIVEN;
  Row<const X> dout_row(dout + piece.batch * dout_batch + piece.channel * dout_channel, dout_step, length, reverse, piece.first);
  Row<X> dx_row(dx + piece.batch * length * channels + piece.channel, channels, length, reverse, piece.first - BEFORE);
  Row<STATES> dstates_row(dstates + (piece.batch * channels + piece.channel) * BEFORE, 1, BEFORE, reverse, 0);
  int walked = piece.size + BEFORE;
  int existing = length - piece.first < walked ? length - piece.first : walked;
  acc_t dw[WIDTH], db = 0, dy[BEFORE + TILE];  // dy: of the steps, before the activation
#pragma unroll
  for (int k = 0; k < WIDTH; k++) dw[k] = 0;
#pragma unroll
  for (int k = 0; k < BEFORE; k++) dy[k] = 0;

  auto advance = [&](auto whole, int t) {
#pragma unroll
    for (int i = 0; i < TILE; i++) {
      inputs[BEFORE + i] = row.read_next(whole.value || t + i < existing);
      dy[BEFORE + i] = dout_row.read_next(whole.value || t + i < existing);
    }
#pragma unroll
    for (int i = 0; i < TILE; i++) {
      if (SILU) {
        acc_t y = filtered(inputs + i, w, b), s = sigmoid(y);
        dy[BEFORE + i] = whole.value || t + i < existing ? dy[BEFORE + i] * (s * (1 + y * (1 - s))) : (acc_t)0;  // not 0 * NaN
      }
      if (whole.value || t + i < piece.size) {
        db += dy[BEFORE + i];
#pragma unroll
        for (int k = 0; k < WIDTH; k++) dw[k] += dy[BEFORE + i] * inputs[i + k];
      }
    }
#pragma unroll
    for (int i = 0; i < TILE; i++) {
      acc_t gradient = 0;  // of the oldest input that step t + i reads, which no later step does
#pragma unroll
      for (int k = 0; k < WIDTH; k++) gradient += w[k] * dy[BEFORE + i - k];
      int at = t + i - BEFORE;
      X narrowed;
      narrow(gradient, &narrowed);
      dx_row.write_next(narrowed, whole.value || (at >= 0 && at < piece.size));
      if (!whole.value && at < 0 && piece.first == 0 && dstates) narrow(gradient, dstates_row.at(t + i));
    }
#pragma unroll
    for (int k = 0; k < BEFORE; k++) {
      inputs[k] = inputs[TILE + k];
      dy[k] = dy[TILE + k];
    }
  };
  for (int t = 0; t < walked; t += TILE) {
    if (t >= BEFORE && t + TILE <= piece.size) {
      advance(Whole<true>(), t);
    } else {
      advance(Whole<false>(), t);
    }
  }

  acc_t* share = partial + piece.item * (WIDTH + 1) * channels + piece.channel;
#pragma unroll
  for (int k = 0; k < WIDTH; k++) share[k * channels] = dw[k];
  share[WIDTH * channels] = db;
}
