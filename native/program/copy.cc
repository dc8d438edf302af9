#include <cstring>

#include "ops/parallel.h"
#include "ops/split.h"
#include "program/steps.h"

namespace rarefy::program {
namespace {

class Copy : public Instruction {
 public:
  Copy(Part x, std::array<Size, 4> sizes, std::array<Size, 3> strides, Part y)
      : x_(std::move(x)), y_(std::move(y)), sizes_(std::move(sizes)), strides_(std::move(strides)) {}
  const char* kind() const noexcept override { return "copy"; }
  void run(const Frame& frame) const override {
    const float* x = frame.at<const float>(x_);
    float* y = frame.at<float>(y_);
    std::ptrdiff_t size[4], stride[3];
    for (int i = 0; i < 4; ++i) size[i] = frame.size(sizes_[i]);
    for (int i = 0; i < 3; ++i) stride[i] = frame.size(strides_[i]);
    const std::ptrdiff_t outer = size[0] * size[1];
    parallel_for(static_cast<std::size_t>(outer),
                 threads_for(static_cast<double>(outer * size[2] * size[3]), frame.threads), [&](std::size_t task) {
                   const std::ptrdiff_t i = static_cast<std::ptrdiff_t>(task);
                   const float* from = x + i / size[1] * stride[0] + i % size[1] * stride[1];
                   float* to = y + i * size[2] * size[3];
                   for (std::ptrdiff_t j = 0; j < size[2]; ++j)
                     std::memcpy(to + j * size[3], from + j * stride[2], sizeof(float) * static_cast<std::size_t>(size[3]));
                 });
  }

 private:
  Part x_, y_;
  std::array<Size, 4> sizes_;
  std::array<Size, 3> strides_;
};

}  // namespace

Step copy(Part x, std::array<Size, 4> sizes, std::array<Size, 3> strides, Part y) {
  return std::make_unique<Copy>(std::move(x), std::move(sizes), std::move(strides), std::move(y));
}

}  // namespace rarefy::program
