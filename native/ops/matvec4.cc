#include "ops/matvec4.h"

#include "ops/few_tokens.h"
#include "ops/holds.h"
#include "ops/quantise.h"
#include "pack/nibbles.h"

namespace rarefy::matvec4 {
namespace {

class Held : public Holds<Packed> {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Holds(w, kernel), input_scale_(w.input_scale), input_zero_(w.input_zero) {}

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    if (tokens == 0) return;
    if (packed_.kernel->multiply8 != nullptr)
      return multiply8(quantise::to_scratch(x, tokens, in(), input_scale_, input_zero_, threads), bias, activation,
                       {y, nullptr, 0.0f, nullptr, 0}, threads);
    std::ptrdiff_t stride = in();
    x = in_places(x, stride, tokens, in(), group_inputs, places());
    const Inputs inputs{x, stride, static_cast<int>(tokens)};
    const Rows rows = packed_.rows();
    share_rows(packed_.starts, out(), tokens, threads, [&](int first, int last) {
      packed_.kernel->multiply(rows, first, last, inputs, {bias, activation, y, out()});
    });
  }

  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override {
    if (packed_.kernel->multiply8 == nullptr) return Layout::multiply8(x, bias, activation, to, threads);
    if (x.tokens == 0) return;
    std::ptrdiff_t stride = x.stride;
    const std::uint8_t* const values = in_places(x.values, stride, x.tokens, in(), group_inputs, places());
    const Inputs8 inputs{values, stride, x.scale, x.zero, x.step, static_cast<int>(x.tokens)};
    const Rows rows = packed_.rows();
    float* const y = floats_of(to, x.tokens, out());
    share_rows(packed_.starts, out(), x.tokens, threads, [&](int first, int last) {
      packed_.kernel->multiply8(rows, first, last, inputs, {bias, activation, y, out()});
      put_bytes(y, x.tokens, out(), first, last, to);
    });
  }

 private:
  std::ptrdiff_t places() const { return (std::ptrdiff_t{in()} + 63) / 64 * 64; }

  float input_scale_;
  std::int32_t input_zero_;
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels())
    out.push_back({k->name, "matvec4", k->isa, "int4", k->multiply8 != nullptr ? "int8" : "fp32", 1, most_tokens, group_inputs});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  return make_named<Held>(kernels(), weight, name);
}

}  // namespace rarefy::matvec4
