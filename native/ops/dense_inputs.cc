#include "ops/dense_inputs.h"

#include <cstring>

namespace rarefy::dense {
namespace {

// Rows an odd number of cache lines apart do not all fall into the same sets of a cache.
std::ptrdiff_t stride_for(int padded) { return (padded + line_bytes - 1) / line_bytes * line_bytes | line_bytes; }

Bytes from_floats(const Inputs& inputs, const Kernel& kernel, int padded, std::ptrdiff_t first, std::ptrdiff_t tokens,
                  Scratch& scratch) {
  const std::ptrdiff_t stride = stride_for(padded);
  float* const scale = scratch.at_least(static_cast<std::size_t>(tokens) * (2 + stride / sizeof(float)) + 16);
  auto* const zero = reinterpret_cast<std::int32_t*>(scale + tokens);
  auto* const values = reinterpret_cast<std::uint8_t*>(scale + (2 * tokens + 15) / 16 * 16);
  const float* const rows = inputs.floats + first * inputs.in;
  const bool own = inputs.known == nullptr && kernel.range_of_row != nullptr;  // a scale for every token
  const auto find_range = [&](std::ptrdiff_t t) {
    if (own && t < tokens) kernel.range_of_row(rows + t * inputs.in, inputs.in, scale + t, zero + t);
  };
  find_range(0);
  for (std::ptrdiff_t t = 0; t < tokens; ++t) {
    find_range(t + 1);  // ahead: its long chain of dependent steps runs beside the next lines
    const Step step = own ? Step{scale[t], zero[t]} : inputs.known != nullptr ? *inputs.known : Step{};
    kernel.quantise_row(rows + t * inputs.in, inputs.in, padded, step.scale, step.zero, values + t * stride);
  }
  if (inputs.known != nullptr) return {values, tokens, stride, &inputs.known->scale, &inputs.known->zero, 0};
  return {values, tokens, stride, scale, zero, 1};
}

}  // namespace

Bytes bytes_of(const Inputs& inputs, const Kernel& kernel, int padded, std::ptrdiff_t first, std::ptrdiff_t tokens,
               Scratch& scratch) {
  if (kernel.quantise_row == nullptr)
    return {reinterpret_cast<const std::uint8_t*>(inputs.floats + first * inputs.in), tokens,
            static_cast<std::ptrdiff_t>(inputs.in * sizeof(float)), nullptr, nullptr, 0};
  if (inputs.floats != nullptr) return from_floats(inputs, kernel, padded, first, tokens, scratch);
  const Rows8& rows = inputs.rows;
  Bytes out{rows.values + first * rows.stride, tokens,    rows.stride, rows.scale + first * rows.step,
            rows.zero + first * rows.step,     rows.step};
  if (padded == inputs.in) return out;
  const std::ptrdiff_t stride = stride_for(padded);
  float* const room = scratch.at_least(static_cast<std::size_t>(tokens * stride) / sizeof(float));
  auto* const copy = reinterpret_cast<std::uint8_t*>(room);
  for (std::ptrdiff_t t = 0; t < tokens; ++t) {
    std::memcpy(copy + t * stride, out.values + t * rows.stride, inputs.in);
    std::memset(copy + t * stride + inputs.in, 0, padded - inputs.in);
  }
  out.values = copy;
  out.stride = stride;
  return out;
}

}  // namespace rarefy::dense
