#include "ops/attention.h"

#include "program/steps.h"

namespace rarefy::program {
namespace {

class Attention : public Instruction {
 public:
  explicit Attention(AttentionOf of) : of_(std::move(of)) {}
  const char* kind() const noexcept override { return of_.eight ? "attention8" : "attention"; }
  void run(const Frame& frame) const override {
    const auto strides = [&](const Strides3& s) {
      return attention::Strides{frame.size(s.batch), frame.size(s.head), frame.size(s.token)};
    };
    const attention::Problem problem{frame.at<const float>(of_.q),
                                     frame.at<const float>(of_.k),
                                     frame.at<const float>(of_.v),
                                     of_.mask_is_bytes ? nullptr : frame.at<const float>(of_.mask),
                                     of_.mask_is_bytes ? frame.at<const unsigned char>(of_.mask) : nullptr,
                                     frame.at<float>(of_.y),
                                     strides(of_.q_at),
                                     strides(of_.k_at),
                                     strides(of_.v_at),
                                     strides(of_.mask_at),
                                     strides(of_.y_at),
                                     frame.size(of_.batch),
                                     static_cast<int>(frame.size(of_.heads)),
                                     static_cast<int>(frame.size(of_.queries)),
                                     static_cast<int>(frame.size(of_.keys)),
                                     of_.depth,
                                     of_.scale};
    if (of_.eight) attention::attend8(problem, frame.threads);
    else attention::attend(problem, frame.threads);
  }

 private:
  AttentionOf of_;
};

}  // namespace

Step attention(AttentionOf of) { return std::make_unique<Attention>(std::move(of)); }

}  // namespace rarefy::program
