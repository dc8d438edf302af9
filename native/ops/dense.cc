#include "ops/dense.h"

#include <cstring>
#include <stdexcept>

#include "ops/dense_run.h"
#include "pack/keep.h"

namespace rarefy::dense {
namespace {

struct Variant {
  std::string name, op, weights;
  Isa isa;
  const Kernel* kernel;
  lines::Shape shape;
  expand::Expand expand;  // null: the weight is stored whole
};

void add_int8(std::vector<Variant>& out, const Kernel& k) {
  const lines::Shape shape{1, 4, k.lines};
  const std::string name = k.name;
  out.push_back({"dense8-" + name, "dense8", "int8", k.isa, &k, shape, nullptr});
  // A CPU with VNNI may expand bytes in one instruction (Ice Lake, Zen 4) or not (Cascade Lake); with AMX it can.
  if (k.isa == Isa::vnni && features().avx512_vbmi2)
    out.push_back({"expand8-vbmi2", "expand8", "int8", Isa::vbmi2, &k, shape, expand::named("vbmi2").bytes});
  const char* expansion = k.isa == Isa::amx ? "vbmi2" : k.isa == Isa::vnni ? "avx512" : k.name;
  out.push_back({"expand8-" + name, "expand8", "int8", k.isa, &k, shape, expand::named(expansion).bytes});
}

void add_bf16(std::vector<Variant>& out, const Kernel& k) {
  const lines::Shape shape{2, 2, k.lines};
  out.push_back({std::string("dense16-") + k.name, "dense16", "bf16", k.isa, &k, shape, nullptr});
  out.push_back({std::string("expand16-") + k.name, "expand16", "bf16", k.isa, &k, shape, expand::named("vbmi2").halves});
}

void add_floats(std::vector<Variant>& out, const Kernel& k) {
  const expand::Kernel& expansion = expand::named(k.name);
  out.push_back({std::string("dense32-") + k.name, "dense32", "fp32", k.isa, &k, {4, 1, k.lines}, nullptr});
  out.push_back({std::string("expand32-") + k.name, "expand32", "fp32", k.isa, &k, {4, 1, k.lines}, expansion.floats});
  out.push_back({std::string("expand16-") + k.name, "expand16", "bf16", k.isa, &k, {2, 1, k.lines}, expansion.widened});
}

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = [] {
    std::vector<Variant> out;
    for (const Kernel* k : kernels())
      k->type == Type::int8 ? add_int8(out, *k) : k->type == Type::bf16 ? add_bf16(out, *k) : add_floats(out, *k);
    return out;
  }();
  return all;
}

// Bits of a float as stored; what is not kept (zeros, denormals) is zero.
std::uint32_t bits_of(float weight) { return kept(weight) ? __builtin_bit_cast(std::uint32_t, weight) : 0; }

std::uint16_t rounded(float weight) {  // to nearest, ties to even; a NaN stays one
  const std::uint32_t bits = bits_of(weight);
  if (weight != weight) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float widened(const std::uint8_t* bf16) {
  return __builtin_bit_cast(float, bf16[0] << 16 | static_cast<std::uint32_t>(bf16[1]) << 24);
}

lines::Lines pack_floats(const WeightSource& w, const Variant& v) {
  const std::size_t entries = static_cast<std::size_t>(w.out) * w.in;
  const bool whole = v.expand == nullptr;
  if (v.shape.item == 4) {
    std::vector<std::uint32_t> bits(entries);
    for (std::size_t i = 0; i < entries; ++i) bits[i] = bits_of(w.values[i]);
    return lines::pack(bits.data(), w.out, w.in, v.shape, !whole);
  }
  std::vector<std::uint16_t> halves(entries);
  for (std::size_t i = 0; i < entries; ++i) halves[i] = rounded(w.values[i]);
  return lines::pack(halves.data(), w.out, w.in, v.shape, !whole);
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Variant& v) : Layout(w.out, w.in), input_{w.input_scale, w.input_zero} {
    weight_.kernel = v.kernel;
    weight_.expand = v.expand;
    if (w.blob != nullptr) read(w);
    else if (v.kernel->type == Type::int8) pack_codes(w, v);
    else weight_.lines = pack_floats(w, v);
  }
  std::size_t nnz() const override { return weight_.lines.nnz; }
  std::size_t bytes() const override {  // of the rows there are: the last block's missing ones hold nothing
    const std::size_t of_row = weight_.scale.empty() ? 0 : sizeof(float) + sizeof(std::int32_t);
    return weight_.lines.bytes() + static_cast<std::size_t>(out()) * of_row;
  }
  void unpack(float* to) const override {
    const lines::Lines& l = weight_.lines;
    const std::size_t entries = static_cast<std::size_t>(out()) * in();
    std::vector<std::uint8_t> items(entries * l.shape.item);
    lines::unpack(l, items.data());
    if (l.shape.item == 4) std::memcpy(to, items.data(), items.size());
    for (std::size_t i = 0; i < entries && l.shape.item < 4; ++i)
      to[i] = l.shape.item == 1 ? weight_.scale[i / in()] * static_cast<std::int8_t>(items[i])
                                : widened(items.data() + 2 * i);
  }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    static constexpr float nothing = 0.0f;  // rows of no inputs have no address
    const Inputs inputs{tokens, in(), in() == 0 ? &nothing : x, {}, input_.scale == 0.0f ? nullptr : &input_};
    dense::multiply(weight_, inputs, {bias, activation, {y, nullptr, 0.0f, nullptr, 0}}, threads);
  }
  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to,
                 int threads) const override {
    if (weight_.kernel->type != Type::int8) return Layout::multiply8(x, bias, activation, to, threads);
    dense::multiply(weight_, {x.tokens, in(), nullptr, x, nullptr}, {bias, activation, to}, threads);
  }

  void save(BlobWriter& to) const override { to(weight_); }

 private:
  void read(const WeightSource& w) {
    (*w.blob)(weight_);
    require_size(w, weight_.lines.out, weight_.lines.in);
  }
  void pack_codes(const WeightSource& w, const Variant& v) {
    weight_.lines = lines::pack(w.codes, w.out, w.in, v.shape, v.expand != nullptr);
    weight_.scale.resize(static_cast<std::size_t>(weight_.lines.blocks()) * block_rows);
    weight_.sums.resize(weight_.scale.size());
    for (int r = 0; r < w.out; ++r) {
      weight_.scale[r] = w.scales[r];
      const std::int8_t* row = w.codes + static_cast<std::size_t>(r) * w.in;
      for (int k = 0; k < w.in; ++k) weight_.sums[r] += row[k];
    }
  }

  Weight weight_;
  Step input_;
};

void require_fitting(const WeightSource& w, const Variant& v) {
  if (v.kernel->type != Type::int8) return;
  if (w.groups != 1)
    throw std::invalid_argument("pack: kernel " + v.name + " takes one scale a row, but the weight has " +
                                std::to_string(w.groups) + "; quantize_weight() without a group");
  if (w.in > max_in)
    throw std::invalid_argument("pack: kernel " + v.name + " sums at most " + std::to_string(max_in) +
                                " inputs exactly, but the weight has " + std::to_string(w.in) +
                                "; leave the layer in floats");
}

}  // namespace

std::vector<KernelEntry> entries() {
  const char* const names[] = {"int8", "bf16", "fp32"};
  std::vector<KernelEntry> out;
  for (const Variant& v : variants())
    out.push_back({v.name, v.op, v.isa, v.weights, names[static_cast<int>(v.kernel->type)], block_rows,
                   v.kernel->tokens, v.kernel->lines * v.shape.interleave});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Variant& v : variants())
    if (name == v.name) {
      require_fitting(weight, v);
      return std::make_unique<Held>(weight, v);
    }
  return nullptr;
}

}  // namespace rarefy::dense
