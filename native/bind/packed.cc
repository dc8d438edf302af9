#include "bind/packed.h"

#include <atomic>
#include <limits>
#include <stdexcept>

#include "ops/factored.h"

namespace rarefy {
namespace {

std::atomic<long> live_objects{0};

void require(const KernelEntry& kernel, const WeightSource& weight) {
  const Isa allowed = allowed_isa();
  if (kernel.isa > allowed)
    throw std::invalid_argument("pack: kernel " + kernel.name + " needs " + isa_name(kernel.isa) +
                                ", but this process may use " + isa_name(allowed) +
                                " at most (the CPU, or RAREFY_ISA); leave the kernel out to have one chosen");
  const bool floats = kernel.weights == "fp32" || kernel.weights == "bf16";
  if (weight.blob == nullptr && floats != (weight.bits == 0))  // not told by the addresses: a weight without entries has none
    throw std::invalid_argument("pack: kernel " + kernel.name + " stores " + kernel.weights + " weights, but got " +
                                (floats ? "codes with scales; dequantize() them first" : "floats; quantize_weight() them first"));
  if (weight.input_factors != nullptr && (kernel.activations != "int8" || weight.input_scale == 0.0f))
    throw std::invalid_argument("pack: factors of inputs belong to 8-bit inputs of a known scale, but kernel " + kernel.name +
                                " computes on " + kernel.activations + " inputs" +
                                (weight.input_scale == 0.0f ? " and no scale was given" : "") +
                                "; choose a kernel with int8 activations, or leave the factors out");
}

std::unique_ptr<Layout> lay_out(const WeightSource& weight, const std::string& name) {
  for (const Family& family : families())
    for (const KernelEntry& kernel : family.kernels())
      if (kernel.name == name) {
        require(kernel, weight);
        return weight.input_factors == nullptr ? family.pack(weight, name)
                                               : factored(family.pack(weight, name), weight);
      }
  throw std::invalid_argument("pack: no kernel is called '" + name + "'; rarefy.ops.native.kernels() lists them");
}

int checked(std::int64_t size) {
  if (size < 0 || size > std::numeric_limits<std::int32_t>::max() / 64)
    throw std::invalid_argument("pack: a dimension of " + std::to_string(size) + " is out of range");
  return static_cast<int>(size);
}

std::unique_ptr<Layout> see(const Mapping& file, std::size_t at, std::size_t bytes, WeightSource weight,
                            const std::string& kernel) {
  BlobReader blob(file.part(at, bytes), bytes, kernel);
  weight.blob = &blob;
  std::unique_ptr<Layout> layout = lay_out(weight, kernel);
  blob.finish();
  return layout;
}

}  // namespace

Packed::Packed(std::uintptr_t weight, std::uintptr_t codes, std::uintptr_t scales, int groups, int bits,
               float input_scale, int input_zero, std::uintptr_t input_factors, std::int64_t out, std::int64_t in,
               const std::string& kernel)
    : kernel_(kernel),
      layout_(lay_out({checked(out), checked(in), at<float>(weight), at<std::int8_t>(codes), at<float>(scales), groups,
                       bits, input_scale, input_zero, at<float>(input_factors)},
                      kernel)) {
  ++live_objects;
}

Packed::Packed(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, float input_scale, int input_zero,
               std::uintptr_t input_factors, std::int64_t out, std::int64_t in, const std::string& kernel)
    : file_(std::move(file)),
      kernel_(kernel),
      layout_(see(*file_, at, bytes,
                  {checked(out), checked(in), nullptr, nullptr, nullptr, 1, 0, input_scale, input_zero,
                   rarefy::at<float>(input_factors)},
                  kernel)) {
  ++live_objects;
}

Packed::~Packed() { --live_objects; }

void Packed::multiply(std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation, std::uintptr_t y,
                      int threads) const {
  layout_->multiply(at<float>(x), tokens, at<float>(bias), static_cast<Activation>(activation), at<float>(y), threads);
}

bool Packed::multiply_through(const Packed& next, std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation,
                              std::uintptr_t next_bias, int next_activation, std::uintptr_t y, int threads) const {
  const Ending between{at<float>(bias), static_cast<Activation>(activation)};
  const Ending last{at<float>(next_bias), static_cast<Activation>(next_activation)};
  return layout_->multiply_through(*next.layout_, at<float>(x), tokens, between, last, at<float>(y), threads);
}

void Packed::multiply8(std::uintptr_t x, std::int64_t tokens, std::uintptr_t scale, std::uintptr_t zero, int step,
                       std::uintptr_t bias, int activation, std::uintptr_t y, float to_scale, int to_zero,
                       std::uintptr_t to_inverse, int threads) const {
  const Rows8 rows{at<std::uint8_t>(x), tokens, layout_->in(), at<float>(scale), at<std::int32_t>(zero), step};
  const bool bytes = to_scale != 0.0f;
  const Output8 to{bytes ? nullptr : at<float>(y), bytes ? at<std::uint8_t>(y) : nullptr, 1.0f / to_scale,
                   at<float>(to_inverse), to_zero};
  layout_->multiply8(rows, at<float>(bias), static_cast<Activation>(activation), to, threads);
}

std::size_t Packed::save(std::uintptr_t to) const {
  BlobWriter writer(at<std::uint8_t>(to));
  layout_->save(writer);
  return writer.finish(kernel_);
}

void Packed::multiply_rows(std::uintptr_t x, std::int64_t tokens, std::uintptr_t list, int count, std::uintptr_t y,
                           int threads) const {
  layout_->multiply_rows(at<float>(x), tokens, at<std::int32_t>(list), count, nullptr, at<float>(y), threads);
}

void Packed::unpack(std::uintptr_t weight) const { layout_->unpack(at<float>(weight)); }

long Packed::live() { return live_objects; }
void Packed::count_live(int change) { live_objects += change; }

std::vector<Listed> listing() {
  std::vector<Listed> out;
  for (const Family& family : families())
    for (const KernelEntry& k : family.kernels())
      out.emplace_back(k.name, k.op, isa_name(k.isa), k.weights, k.activations, k.rows, k.tokens, k.depth);
  return out;
}

}  // namespace rarefy
