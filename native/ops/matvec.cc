#include "ops/matvec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/quantise.h"
#include "ops/split.h"
#include "pack/stream.h"

namespace rarefy::matvec {
namespace {

constexpr double bytes_a_thread = 1 << 16;  // a thread reads these in about five microseconds: what it costs to wake one

// Rows in about equal shares of bytes; several a thread, for a thread that is held up takes fewer.
template <class Function>
void each_share(const Packed& p, std::ptrdiff_t tokens, int threads, Function f) {
  const double work = static_cast<double>(p.bytes.size()) * (1.0 + static_cast<double>(tokens) / 4.0);
  threads = static_cast<int>(std::min<double>(threads, 1 + work / bytes_a_thread));
  const std::vector<int> bounds = split_rows(p.starts.data(), p.out, threads == 1 ? 1 : 4 * threads);
  parallel_for(bounds.size() - 1, threads, [&](std::size_t part) {
    if (bounds[part] < bounds[part + 1]) f(bounds[part], bounds[part + 1]);
  });
}

// Inputs in the columns of the stream: units of groups.columns() features take 16 places each, the rest is zero.
template <class T>
void in_columns(const Packed& p, const T* from, std::ptrdiff_t stride, std::ptrdiff_t tokens, T* to) {
  const int columns = p.groups.columns(), places = p.chunks() * chunk_columns;
  for (std::ptrdiff_t t = 0; t < tokens; ++t, from += stride, to += places) {
    if (columns == unit_columns) {
      std::memcpy(to, from, sizeof(T) * p.in);
      std::fill(to + p.in, to + places, T{0});
      continue;
    }
    for (int first = 0, at = 0; at < places; first += columns, at += unit_columns) {
      const int used = std::clamp(p.in - first, 0, columns);
      std::copy(from + first, from + first + used, to + at);
      std::fill(to + at + used, to + at + unit_columns, T{0});
    }
  }
}

template <class T>
const T* arranged(const Packed& p, const T* x, std::ptrdiff_t& stride, std::ptrdiff_t tokens) {
  static thread_local AlignedVector<T> scratch;
  const std::ptrdiff_t places = static_cast<std::ptrdiff_t>(p.chunks()) * chunk_columns;
  if (p.groups.columns() == unit_columns && (stride >= places || p.kernel->format == Format::index)) return x;
  if (scratch.size() < static_cast<std::size_t>(places * tokens)) scratch.resize(static_cast<std::size_t>(places * tokens));
  in_columns(p, x, stride, tokens, scratch.data());
  stride = places;
  return scratch.data();
}

std::uint8_t rounded(float y, const Output8& to) {
  return static_cast<std::uint8_t>(std::clamp(std::nearbyintf(y / to.scale) + static_cast<float>(to.zero), 0.0f, 255.0f));
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel)
      : Layout(w.out, w.in), packed_(pack(w, kernel)), input_scale_(w.input_scale), input_zero_(w.input_zero) {}
  std::size_t nnz() const override { return packed_.nnz(); }
  std::size_t bytes() const override { return packed_.size(); }
  void unpack(float* weight) const override { matvec::unpack(packed_, weight); }

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    if (tokens == 0) return;
    if (packed_.kernel->multiply8 != nullptr)
      return multiply8(quantise::to_scratch(x, tokens, in(), input_scale_, input_zero_, threads), bias, activation,
                       {y, nullptr, 0.0f, 0}, threads);
    std::ptrdiff_t stride = in();
    x = arranged(packed_, x, stride, tokens);
    const Inputs inputs{x, stride, static_cast<int>(tokens)};
    const Rows rows = packed_.rows();
    each_share(packed_, tokens, threads, [&](int first, int last) {
      packed_.kernel->multiply(rows, first, last, inputs, {bias, activation, y, out()});
    });
  }

  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override {
    if (packed_.kernel->multiply8 == nullptr) return Layout::multiply8(x, bias, activation, to, threads);
    if (x.tokens == 0) return;
    std::ptrdiff_t stride = x.stride;
    const std::uint8_t* const values = arranged(packed_, x.values, stride, x.tokens);
    const Inputs8 inputs{values, stride, x.scale, x.zero, x.step, static_cast<int>(x.tokens)};
    const Rows rows = packed_.rows();
    static thread_local AlignedVector<float> scratch;
    if (to.y == nullptr && scratch.size() < static_cast<std::size_t>(x.tokens * out())) scratch.resize(x.tokens * out());
    float* const y = to.y != nullptr ? to.y : scratch.data();
    each_share(packed_, x.tokens, threads, [&](int first, int last) {
      packed_.kernel->multiply8(rows, first, last, inputs, {bias, activation, y, out()});
      if (to.y != nullptr) return;
      for (std::ptrdiff_t t = 0; t < x.tokens; ++t)
        for (int row = first; row < last; ++row) to.values[t * out() + row] = rounded(y[t * out() + row], to);
    });
  }

 private:
  Packed packed_;
  float input_scale_;
  std::int32_t input_zero_;
};

const char* stored_name(Stored s) { return s == Stored::fp32 ? "fp32" : s == Stored::bf16 ? "bf16" : "int8"; }

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels())
    out.push_back({k->name, "matvec", k->isa, stored_name(k->stored), k->multiply8 != nullptr ? "int8" : "fp32", 1, most_tokens, chunk_columns});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels())
    if (name == k->name) return std::make_unique<Held>(weight, *k);
  return nullptr;
}

}  // namespace rarefy::matvec
