#include "program/steps.h"

namespace rarefy::program {
namespace {

class Linear : public Instruction {
 public:
  explicit Linear(LinearOf of) : of_(std::move(of)) {}
  const char* kind() const noexcept override { return "linear"; }
  void run(const Frame& frame) const override {
    of_.layout->multiply(frame.at<const float>(of_.x), frame.size(of_.tokens), frame.at<const float>(of_.bias),
                         of_.activation, frame.at<float>(of_.y), frame.threads);
  }

 private:
  LinearOf of_;
};

}  // namespace

Step linear(LinearOf of) { return std::make_unique<Linear>(std::move(of)); }

}  // namespace rarefy::program
