// Runs CUDA C++ on the host: each thread of a block is a fiber, which runs until it waits for the others. For tests only.
// Blocks run one after the other. Dynamic shared memory is filled with NaN before each, so reading what nobody wrote shows, and so
// is a guard behind it, which must stay as it is. Warps go from one barrier of the block to the next one after the other, and lanes
// of a warp likewise between its exchanges. The last comes first if host_descending is set, of blocks too. Races show as other bits
// in either order.
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>
#include <ucontext.h>

#define ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) char* name = host::shared.data()

struct uint3 { unsigned x, y, z; };
extern "C" { bool host_descending = false; }
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {
constexpr size_t GUARD = 1 << 12;  // bytes behind dynamic shared memory
enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Fiber { ucontext_t context; jmp_buf at; bool begun; State state; unsigned shuffles; std::vector<char> stack; };
static std::vector<Fiber> fibers;
static std::vector<char> shared;
static std::function<void()> kernel;
static jmp_buf scheduler;
static ucontext_t first;
static double exchanged[2][1024];
static unsigned current;

static void wait_as(State state) {
  fibers[current].state = state;
  if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}
static void enter() { kernel(); fibers[current].state = DONE; _longjmp(scheduler, 1); }

// Threads from..to wait alike and none is ready: let them go on. Threads that have returned do not count, as on a GPU.
static bool release(unsigned from, unsigned to, State state) {
  bool any = false;
  for (unsigned i = from; i < to; i++) {
    if (fibers[i].state != state && fibers[i].state != DONE) return false;
    any |= fibers[i].state == state;
  }
  for (unsigned i = from; i < to; i++) if (fibers[i].state == state) fibers[i].state = READY;
  return any;
}
static void resume(unsigned i) {
  current = i;
  threadIdx = {i, 0, 0};
  if (_setjmp(scheduler)) return;
  if (fibers[i].begun) _longjmp(fibers[i].at, 1);
  fibers[i].begun = true;
  getcontext(&fibers[i].context);
  fibers[i].context.uc_stack.ss_sp = fibers[i].stack.data();
  fibers[i].context.uc_stack.ss_size = fibers[i].stack.size();
  makecontext(&fibers[i].context, enter, 0);
  swapcontext(&first, &fibers[i].context);
}
static void run_warp(unsigned from, unsigned to) {
  do {
    for (volatile unsigned k = from; k < to; k = k + 1) {
      unsigned i = host_descending ? from + to - 1 - k : k;
      if (fibers[i].state == READY) resume(i);
    }
  } while (release(from, to, AT_WARP));
}
static void run_block() {
  unsigned size = fibers.size(), warps = (size + 31) / 32;
  for (auto& fiber : fibers) { fiber.begun = false; fiber.state = READY; fiber.shuffles = 0; }
  do {
    for (unsigned k = 0; k < warps; k++) {
      unsigned warp = host_descending ? warps - 1 - k : k;
      run_warp(32 * warp, std::min(32 * warp + 32, size));
    }
  } while (release(0, size, AT_BLOCK));
  for (auto& fiber : fibers)
    if (fiber.state != DONE) { fprintf(stderr, "threads of a block wait at different barriers\n"); abort(); }
}
template <class... A, size_t... I>
static void run(void (*f)(A...), void** args, std::index_sequence<I...>) {
  kernel = [=] { f(*(A*)args[I]...); };
  for (unsigned z = 0; z < gridDim.z; z++) for (unsigned y = 0; y < gridDim.y; y++) for (unsigned x = 0; x < gridDim.x; x++) {
    blockIdx = {host_descending ? gridDim.x - 1 - x : x, y, z};
    memset(shared.data(), 0xff, shared.size());
    run_block();
    for (size_t i = shared.size() - GUARD; i < shared.size(); i++)
      if (shared[i] != (char)0xff) { fprintf(stderr, "a block writes past its shared memory\n"); abort(); }
  }
}
// ``kinds`` has a letter for each argument: p for a pointer, i for an integer.
template <class... A>
static void launch(void (*f)(A...), const unsigned* grid, unsigned block, size_t shared_bytes, void** args, const char* kinds) {
  constexpr char wanted[] = {(std::is_pointer_v<A> ? 'p' : 'i')..., 0};
  if (strcmp(kinds, wanted)) { fprintf(stderr, "a kernel takes %s and is given %s\n", wanted, kinds); abort(); }
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block, 1, 1};
  fibers.resize(block);
  for (auto& fiber : fibers) fiber.stack.resize(1 << 16);
  shared.resize(shared_bytes + GUARD);
  run(f, args, std::index_sequence_for<A...>());
}
}  // namespace host

static void __syncthreads() { host::wait_as(host::AT_BLOCK); }
static void __syncwarp(unsigned = 0) { host::wait_as(host::AT_WARP); }
template <class T> static T host_shuffle(T value, unsigned lane) {
  auto& mine = host::fibers[host::current];
  double* slots = host::exchanged[mine.shuffles++ & 1];  // two sets of slots, so that nobody overwrites what others have yet to read
  slots[host::current] = value;
  __syncwarp();
  return slots[(host::current & ~31u) | lane];
}
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) { return host_shuffle(value, (host::current & 31) ^ mask); }

static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float half_to_float(unsigned short bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
  return bits >> 15 ? -size : size;
}
static unsigned short float_to_half(float x) {
  unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  float size = fabsf(x);
  if (size != size) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  int exponent = std::max(size ? ilogbf(size) : -15, -14);
  unsigned units = lrintf(ldexpf(size, 10 - exponent));  // to the nearest, ties to even
  return sign | (units < 1024 ? units : units + ((exponent + 14) << 10));
}
