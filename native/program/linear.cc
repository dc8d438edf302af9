#include <algorithm>

#include "ops/parallel.h"
#include "ops/split.h"
#include "program/rows8.h"
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

class LinearPair : public Instruction {
 public:
  LinearPair(LinearOf first, LinearOf second) : of_(first), next_(second), first_(std::move(first)), second_(std::move(second)) {}
  const char* kind() const noexcept override { return "linear pair"; }
  void run(const Frame& frame) const override {
    const Ending between{frame.at<const float>(of_.bias), of_.activation}, last{frame.at<const float>(next_.bias), next_.activation};
    if (of_.layout->multiply_through(*next_.layout, frame.at<const float>(of_.x), frame.size(of_.tokens), between, last,
                                     frame.at<float>(next_.y), frame.threads))
      return;
    first_.run(frame);
    second_.run(frame);
  }

 private:
  LinearOf of_, next_;
  Linear first_, second_;
};

class Linear8 : public Instruction {
 public:
  explicit Linear8(LinearOf8 of) : of_(std::move(of)) {}
  const char* kind() const noexcept override { return "linear8"; }
  void run(const Frame& frame) const override {
    const RowsOf8& y8 = of_.y8;
    const Output8 to{frame.at<float>(of_.y), frame.at<std::uint8_t>(y8.values), 1.0f / y8.known,
                     frame.at<float>(y8.inverse), y8.known_zero};
    of_.layout->multiply8(Rounding(of_.x, frame).read(frame.size(of_.tokens)), frame.at<const float>(of_.bias),
                          of_.activation, to, frame.threads);
  }

 private:
  LinearOf8 of_;
};

class Quantise : public Instruction {
 public:
  Quantise(Part x, Size rows, int features, RowsOf8 to)
      : x_(std::move(x)), rows_(std::move(rows)), features_(features), to_(std::move(to)) {}
  const char* kind() const noexcept override { return "quantise"; }
  void run(const Frame& frame) const override {
    const Rounding to8(to_, frame);
    const float* x = frame.at<const float>(x_);
    const std::ptrdiff_t count = frame.size(rows_);
    parallel_for(static_cast<std::size_t>((count + share - 1) / share),
                 threads_for(2.0 * static_cast<double>(count) * features_, frame.threads), [&](std::size_t task) {
                   const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(task) * share;
                   to8.rows(x, features_, first, std::min(count, first + share));
                 });
  }

 private:
  static constexpr std::ptrdiff_t share = 16;

  Part x_;
  Size rows_;
  int features_;
  RowsOf8 to_;
};

}  // namespace

Step linear8(LinearOf8 of) { return std::make_unique<Linear8>(std::move(of)); }

Step quantise(Part x, Size rows, int features, RowsOf8 to) {
  return std::make_unique<Quantise>(std::move(x), std::move(rows), features, std::move(to));
}

Step linear(LinearOf of) { return std::make_unique<Linear>(std::move(of)); }

Step linear_pair(LinearOf first, LinearOf second) {
  return std::make_unique<LinearPair>(std::move(first), std::move(second));
}

}  // namespace rarefy::program
