#include "kernels/elementwise/contract.h"

#include <algorithm>

#include "ops/parallel.h"
#include "ops/split.h"
#include "program/steps.h"

namespace rarefy::program {
namespace {

constexpr std::ptrdiff_t share = 4096;  // entries of a task: four times 16 kB stay in the L1 cache

// run(first, last) over spans of at most `share` entries that do not cross a multiple of `period`.
template <class Run>
void spans(std::ptrdiff_t count, std::ptrdiff_t period, int threads, Run&& run) {
  if (count <= 0 || period <= 0) return;
  const std::ptrdiff_t each = (period + share - 1) / share;  // spans of a period
  const std::ptrdiff_t periods = (count + period - 1) / period;
  parallel_for(static_cast<std::size_t>(periods * each), threads_for(2.0 * static_cast<double>(count), threads),
               [&](std::size_t task) {
                 const std::ptrdiff_t which = static_cast<std::ptrdiff_t>(task) / each;
                 const std::ptrdiff_t within = static_cast<std::ptrdiff_t>(task) % each * share;
                 const std::ptrdiff_t first = which * period + within;
                 const std::ptrdiff_t last = std::min({count, (which + 1) * period, first + share});
                 if (first < last) run(first, last, within);
               });
}

class Activate : public Instruction {
 public:
  Activate(Part x, Size count, Activation activation, Part y)
      : x_(std::move(x)), y_(std::move(y)), count_(std::move(count)), activation_(activation),
        kernel_(elementwise::kernel(allowed_isa())) {}
  const char* kind() const noexcept override { return "activation"; }
  void run(const Frame& frame) const override {
    const float* x = frame.at<const float>(x_);
    float* y = frame.at<float>(y_);
    const std::ptrdiff_t count = frame.size(count_);
    spans(count, count, frame.threads, [&](std::ptrdiff_t first, std::ptrdiff_t last, std::ptrdiff_t) {
      kernel_.activate(activation_, x + first, last - first, y + first);
    });
  }

 private:
  Part x_, y_;
  Size count_;
  Activation activation_;
  const elementwise::Kernel& kernel_;
};

class Combine : public Instruction {
 public:
  Combine(bool multiply, Part a, Part b, Size count, Size period, Part y)
      : a_(std::move(a)), b_(std::move(b)), y_(std::move(y)), count_(std::move(count)), period_(std::move(period)),
        operation_(multiply ? elementwise::kernel(allowed_isa()).multiply : elementwise::kernel(allowed_isa()).add),
        kind_(multiply ? "multiply" : "add") {}
  const char* kind() const noexcept override { return kind_; }
  void run(const Frame& frame) const override {
    const float *a = frame.at<const float>(a_), *b = frame.at<const float>(b_);
    float* y = frame.at<float>(y_);
    spans(frame.size(count_), frame.size(period_), frame.threads,
          [&](std::ptrdiff_t first, std::ptrdiff_t last, std::ptrdiff_t within) {
            operation_(a + first, b + within, last - first, y + first);
          });
  }

 private:
  Part a_, b_, y_;
  Size count_, period_;
  void (*operation_)(const float*, const float*, std::ptrdiff_t, float*) noexcept;
  const char* kind_;
};

class NotZero : public Instruction {
 public:
  NotZero(Part x, Size count, Part y) : x_(std::move(x)), y_(std::move(y)), count_(std::move(count)) {}
  const char* kind() const noexcept override { return "mask"; }
  void run(const Frame& frame) const override {
    const std::int64_t* x = frame.at<const std::int64_t>(x_);
    unsigned char* y = frame.at<unsigned char>(y_);
    for (std::ptrdiff_t i = 0, count = frame.size(count_); i < count; ++i) y[i] = x[i] != 0;
  }

 private:
  Part x_, y_;
  Size count_;
};

}  // namespace

Step activate(Part x, Size count, Activation activation, Part y) {
  return std::make_unique<Activate>(std::move(x), std::move(count), activation, std::move(y));
}

Step combine(bool multiply, Part a, Part b, Size count, Size period, Part y) {
  return std::make_unique<Combine>(multiply, std::move(a), std::move(b), std::move(count), std::move(period),
                                   std::move(y));
}

Step not_zero(Part x, Size count, Part y) {
  return std::make_unique<NotZero>(std::move(x), std::move(count), std::move(y));
}

}  // namespace rarefy::program
