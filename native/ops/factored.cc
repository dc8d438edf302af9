#include "ops/factored.h"

#include <algorithm>

#include "ops/quantise.h"

namespace rarefy {
namespace {

class Factored : public Layout {
 public:
  Factored(std::unique_ptr<Layout> inner, const WeightSource& w)
      : Layout(w.out, w.in), inner_(std::move(inner)), scale_(w.input_scale), zero_(w.input_zero),
        factors_(static_cast<std::size_t>(w.in)) {
    std::copy_n(w.input_factors, factors_.size(), factors_.begin());
    inverse_.reserve(factors_.size());
    for (const float factor : factors_) inverse_.push_back(1.0f / (scale_ * factor));
  }

  std::size_t nnz() const override { return inner_->nnz(); }
  std::size_t bytes() const override { return inner_->bytes() + sizeof(float) * factors_.size(); }
  void unpack(float* weight) const override {
    inner_->unpack(weight);
    for (std::size_t row = 0; row < static_cast<std::size_t>(out()); ++row)
      for (std::size_t k = 0; k < factors_.size(); ++k) weight[row * factors_.size() + k] /= factors_[k];
  }
  void save(BlobWriter& to) const override { inner_->save(to); }  // the factors come with the inputs' scale again
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    if (tokens == 0) return;
    const Rows8 rows = quantise::to_scratch(x, tokens, in(), scale_, zero_, threads, inverse_.data());
    inner_->multiply8(rows, bias, activation, {y, nullptr, 0.0f, nullptr, 0}, threads);
  }
  // Rows that are bytes already were divided where they were made.
  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override {
    inner_->multiply8(x, bias, activation, to, threads);
  }

 private:
  std::unique_ptr<Layout> inner_;
  float scale_;
  std::int32_t zero_;
  std::vector<float> factors_, inverse_;  // inverse: 1 / (scale * factor)
};

}  // namespace

std::unique_ptr<Layout> factored(std::unique_ptr<Layout> inner, const WeightSource& weight) {
  return std::make_unique<Factored>(std::move(inner), weight);
}

}  // namespace rarefy
