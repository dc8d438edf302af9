#include <algorithm>

#include "kernels/norm/contract.h"
#include "ops/parallel.h"
#include "ops/split.h"
#include "program/rows8.h"
#include "program/steps.h"

namespace rarefy::program {
namespace {

class Norm : public Instruction {
 public:
  explicit Norm(NormOf of) : of_(std::move(of)), kernel_(norm::kernel(allowed_isa())) {}
  const char* kind() const noexcept override { return "norm"; }
  void run(const Frame& frame) const override {
    const norm::Rows rows{frame.at<const float>(of_.x),
                          frame.at<const float>(of_.residual),
                          frame.size(of_.residual_rows),
                          frame.at<const float>(of_.weight),
                          frame.at<const float>(of_.bias),
                          frame.at<float>(of_.y),
                          of_.features,
                          of_.eps,
                          frame.at<float>(of_.total)};
    const Rounding to8(of_.y8, frame);
    const std::ptrdiff_t count = frame.size(of_.rows);
    parallel_for(static_cast<std::size_t>((count + share - 1) / share),
                 threads_for(8.0 * static_cast<double>(count) * of_.features, frame.threads), [&](std::size_t task) {
                   const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(task) * share;
                   const std::ptrdiff_t last = std::min(count, first + share);
                   kernel_.add_layer_norm(rows, first, last);
                   to8.rows(rows.y, of_.features, first, last);
                 });
  }

 private:
  static constexpr std::ptrdiff_t share = 8;  // rows of a task: they are rounded while in the L1 cache

  NormOf of_;
  const norm::Kernel& kernel_;
};

}  // namespace

Step norm(NormOf of) { return std::make_unique<Norm>(std::move(of)); }

}  // namespace rarefy::program
