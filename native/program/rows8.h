// 8-bit rows at the addresses of a call.
#pragma once

#include "kernels/quantise/contract.h"
#include "ops/layout.h"
#include "ops/quantise.h"
#include "program/steps.h"

namespace rarefy::program {

class Rounding {
 public:
  Rounding(const RowsOf8& of, const Frame& frame)
      : of_(of), kernel_(quantise::best(allowed_isa())), values_(frame.at<std::uint8_t>(of.values)),
        scale_(frame.at<float>(of.scale)), zero_(frame.at<std::int32_t>(of.zero)),
        inverse_(frame.at<float>(of.inverse)) {}

  // Rows [first, last) of x (rows, features), which has no gaps; nothing where there are no such rows.
  void rows(const float* x, int features, std::ptrdiff_t first, std::ptrdiff_t last) const noexcept {
    if (!of_.present()) return;
    for (std::ptrdiff_t row = first; row < last; ++row) {
      const float* from = x + row * features;
      std::uint8_t* to = values_ + row * of_.stride;
      if (of_.known == 0.0f) quantise::row(kernel_, from, features, to, scale_ + row, zero_ + row);
      else if (inverse_ == nullptr) kernel_.round(from, features, 1.0f / of_.known, of_.known_zero, to);
      else kernel_.round_each(from, features, inverse_, of_.known_zero, to);
    }
  }

  Rows8 read(std::ptrdiff_t tokens) const noexcept {
    return {values_, tokens, of_.stride, scale_, zero_, of_.known == 0.0f ? 1 : 0};
  }

 private:
  const RowsOf8& of_;
  const quantise::Kernel& kernel_;
  std::uint8_t* values_;
  float* scale_;
  std::int32_t* zero_;
  const float* inverse_;
};

}  // namespace rarefy::program
