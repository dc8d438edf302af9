#include "ops/dense8.h"

#include <stdexcept>

#include "ops/product8.h"

namespace rarefy::dense8 {
namespace {

struct Variant {
  std::string name, op;
  Isa isa;
  const Kernel* kernel;
  expand::Expand expand;  // null: the weight is stored whole
};

// A CPU with VNNI may have the expanding instruction for bytes (Ice Lake, Zen 4) or not (Cascade Lake); with AMX it has.
std::vector<Variant> variants() {
  std::vector<Variant> out;
  for (const Kernel* k : kernels()) out.push_back({std::string("dense8-") + k->name, "dense8", k->isa, k, nullptr});
  for (const Kernel* k : kernels()) {
    const bool amx = k->isa == Isa::amx, vnni = k->isa == Isa::vnni;
    if (vnni && features().avx512_vbmi2)
      out.push_back({"expand8-vbmi2", "expand8", k->isa, k, expand::named("vbmi2").bytes});
    const char* name = amx ? "vbmi2" : vnni ? "avx512" : k->name;
    out.push_back({std::string("expand8-") + k->name, "expand8", k->isa, k, expand::named(name).bytes});
  }
  return out;
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Variant& variant) : Layout(w.out, w.in), input_{w.input_scale, w.input_zero} {
    weight_.kernel = variant.kernel;
    weight_.expand = variant.expand;
    weight_.lines = lines::pack(w.codes, w.out, w.in, {1, inputs_of_line, variant.kernel->lines}, variant.expand != nullptr);
    weight_.scale.resize(static_cast<std::size_t>(weight_.lines.blocks()) * block_rows);
    weight_.sums.resize(weight_.scale.size());
    for (int r = 0; r < w.out; ++r) {
      weight_.scale[r] = w.scales[r];
      const std::int8_t* row = w.codes + static_cast<std::size_t>(r) * w.in;
      for (int k = 0; k < w.in; ++k) weight_.sums[r] += row[k];
    }
  }
  std::size_t nnz() const override { return weight_.lines.nnz; }
  std::size_t bytes() const override {  // of the rows there are: the last block's missing ones hold nothing
    return weight_.lines.bytes() + static_cast<std::size_t>(out()) * (sizeof(float) + sizeof(std::int32_t));
  }
  void unpack(float* to) const override {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(out()) * in());
    lines::unpack(weight_.lines, codes.data());
    for (std::size_t i = 0; i < codes.size(); ++i) to[i] = weight_.scale[i / in()] * static_cast<float>(codes[i]);
  }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    static constexpr float nothing = 0.0f;  // rows of no inputs have no address
    const Inputs8 inputs{tokens, in(), in() == 0 ? &nothing : x, {}, input_.scale == 0.0f ? nullptr : &input_};
    dense8::multiply(weight_, inputs, {bias, activation, {y, nullptr, 0.0f, 0}}, threads);
  }
  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override {
    dense8::multiply(weight_, {x.tokens, in(), nullptr, x, nullptr}, {bias, activation, to}, threads);
  }

 private:
  Weight weight_;
  Step input_;
};

void require_fitting(const WeightSource& w, const std::string& name) {
  if (w.groups != 1)
    throw std::invalid_argument("pack: kernel " + name + " takes one scale a row, but the weight has " +
                                std::to_string(w.groups) + "; quantize_weight() without a group");
  if (w.in > max_in)
    throw std::invalid_argument("pack: kernel " + name + " sums at most " + std::to_string(max_in) + " inputs exactly, but the weight has " +
                                std::to_string(w.in) + "; leave the layer in floats");
}

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Variant& v : variants())
    out.push_back({v.name, v.op, v.isa, "int8", "int8", block_rows, v.kernel->tokens, v.kernel->lines * inputs_of_line});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Variant& v : variants())
    if (name == v.name) {
      require_fitting(weight, name);
      return std::make_unique<Held>(weight, v);
    }
  return nullptr;
}

}  // namespace rarefy::dense8
