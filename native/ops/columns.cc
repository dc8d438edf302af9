#include "ops/columns.h"

#include <algorithm>

#include "core/aligned.h"
#include "core/denormals.h"
#include "ops/holds.h"
#include "ops/parallel.h"
#include "pack/columns.h"

namespace rarefy::columns {
namespace {

constexpr int tasks = 4;  // at least, where there is enough to do: each more costs sums to be added up

// What is left of the inputs of some tokens: this thread's scratch.
Active list_active(const Kernel& kernel, const float* x, std::ptrdiff_t tokens, int in) {
  static thread_local AlignedVector<std::int32_t> columns;
  static thread_local AlignedVector<float> values;
  const std::ptrdiff_t stride = (std::ptrdiff_t{in} + 31) / 16 * 16;
  if (columns.size() < static_cast<std::size_t>(stride)) columns.resize(static_cast<std::size_t>(stride));
  if (values.size() < static_cast<std::size_t>(tokens * stride)) values.resize(static_cast<std::size_t>(tokens * stride));
  const int count = kernel.list(x, tokens, in, columns.data(), values.data(), stride);
  return {columns.data(), count, values.data(), stride, static_cast<int>(tokens), nullptr};
}

class Held : public Holds<Packed> {
 public:
  using Holds::Holds;

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    const FlushDenormals flush;
    for (std::ptrdiff_t token = 0; token < tokens; token += most_tokens) {
      const std::ptrdiff_t count = std::min<std::ptrdiff_t>(most_tokens, tokens - token);
      const Active active = list_active(*packed_.kernel, x + token * in(), count, in());
      share(active, {bias, activation, y + token * out(), out()}, threads);
    }
  }

 private:
  // A task is a panel and a part of the columns; how many there are does not depend on the threads, so that sums do not.
  void share(const Active& active, const RowOutput& output, int threads) const {
    constexpr double bytes_a_thread = 1 << 16;
    const double read = static_cast<double>(packed_.bytes.size()) * active.count / std::max(1, in());
    const double work = read * (1.0 + active.tokens / 4.0);
    threads = static_cast<int>(std::min<double>(threads, 1 + work / bytes_a_thread));
    const int panels = packed_.panels(), parts = work < 4 * bytes_a_thread ? 1 : std::max(1, tasks / panels);
    const std::ptrdiff_t apart = std::ptrdiff_t{panels} * packed_.panel, size = apart * active.tokens;
    float* const sums = scratch(static_cast<std::size_t>(size * parts));
    const Panels view = packed_.view();
    parallel_for(static_cast<std::size_t>(panels) * parts, threads, [&](std::size_t task) {
      const int panel = static_cast<int>(task) / parts, part = static_cast<int>(task) % parts;
      const int first = active.count * part / parts, last = active.count * (part + 1) / parts;
      const Active own{active.columns + first, last - first, active.values + first, active.stride, active.tokens, bytes(active)};
      packed_.kernel->add(view, panel, own, sums + part * size + std::ptrdiff_t{panel} * packed_.panel, apart);
    });
    packed_.kernel->put(view, 0, out(), active.tokens, {sums, parts, size, apart}, output);
  }

  // Room for a task's rounded inputs.
  static std::int8_t* bytes(const Active& active) {
    static thread_local AlignedVector<std::int8_t> room;
    const std::size_t size = static_cast<std::size_t>(active.stride) * active.tokens + 64;
    if (room.size() < size) room.resize(size);
    return room.data();
  }

  static float* scratch(std::size_t floats) {
    static thread_local AlignedVector<float> sums;
    if (sums.size() < floats) sums.resize(floats);
    return sums.data();
  }
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels())
    out.push_back({k->name, "columns", k->isa, name_of(k->stored), k->activations, 0, most_tokens, 1});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  return make_named<Held>(kernels(), weight, name);
}

}  // namespace rarefy::columns
