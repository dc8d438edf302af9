#include "ops/norm.h"

#include "program/steps.h"

namespace rarefy::program {
namespace {

class Norm : public Instruction {
 public:
  explicit Norm(NormOf of) : of_(std::move(of)) {}
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
    norm::add_layer_norm(rows, frame.size(of_.rows), frame.threads);
  }

 private:
  NormOf of_;
};

}  // namespace

Step norm(NormOf of) { return std::make_unique<Norm>(std::move(of)); }

}  // namespace rarefy::program
