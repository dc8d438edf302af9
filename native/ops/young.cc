#include "ops/young.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/parallel.h"

namespace rarefy::train {
namespace {

std::int64_t position(const Young& young, std::int64_t i) {
  return young.wide ? static_cast<const std::int64_t*>(young.at)[i] : static_cast<const std::int32_t*>(young.at)[i];
}

// The largest age; throws for what cannot be.
std::int32_t oldest(const Young& young) {
  std::int32_t most = 0;
  for (std::int64_t i = 0; i < young.count; ++i) {
    const std::int64_t at = position(young, i);
    if (at < 0 || at >= young.size || young.age[i] < 0)
      throw std::out_of_range("weight " + std::to_string(at) + " of age " + std::to_string(young.age[i]) +
                              " in a parameter of " + std::to_string(young.size));
    most = std::max(most, young.age[i]);
  }
  return most;
}

// What a moment is scaled by ahead of the step, and how much of what the step adds comes to it.
struct Factor {
  double scale = 1.0, push = 0.0;
  bool young = false;
};

Factor factor(double beta, std::int64_t step, std::int32_t age, double old) {
  if (beta <= 0.0) return {};
  const auto share = [&](double taken, double counted) {
    return (1.0 - std::pow(beta, counted)) / (1.0 - std::pow(beta, taken));
  };
  const double counted = static_cast<double>(step), then = share(age + 1.0, counted);
  const double now = age == 0 ? 1.0 : share(age, counted - 1.0);  // nothing is held ahead of the first step
  return {then / std::max(now, 1e-300), (then - 1.0) * (1.0 - beta) / beta, std::pow(beta, age + 1.0) > old};
}

struct Factors {
  Factor first, second;
};

// By age, for the ages that are there: few of them, as weights are grown together.
std::vector<Factors> factors(const Young& young, const Adam& adam, double old) {
  std::vector<Factors> of(static_cast<std::size_t>(oldest(young)) + 1);
  std::vector<bool> known(of.size());
  for (std::int64_t i = 0; i < young.count; ++i) {
    const std::size_t age = static_cast<std::size_t>(young.age[i]);
    if (known[age]) continue;
    known[age] = true;
    of[age] = {factor(adam.beta1, adam.step, young.age[i], old), factor(adam.beta2, adam.step, young.age[i], old)};
  }
  return of;
}

// The moment of a weight that is new holds nothing, whatever lies there.
void scale(float* moment, std::int64_t at, std::int32_t age, const Factor& by, double push) {
  const double held = age > 0 ? by.scale * static_cast<double>(moment[at]) : 0.0;
  moment[at] = static_cast<float>(held + by.push * push);
}

}  // namespace

void correct(const Young& young, const Gradient& gradient, const Adam& adam, double old, std::uint8_t* out, int threads) {
  constexpr std::int64_t part = 1 << 14;
  const std::vector<Factors> by_age = factors(young, adam, old);
  const std::int64_t parts = (young.count + part - 1) / part;
  parallel_for(static_cast<std::size_t>(parts), threads, [&](std::size_t number) {
    const std::int64_t from = static_cast<std::int64_t>(number) * part, to = std::min(young.count, from + part);
    for (std::int64_t i = from; i < to; ++i) {
      const std::int64_t at = position(young, i);
      const std::int32_t age = young.age[i];
      const Factors& by = by_age[static_cast<std::size_t>(age)];
      double grad = gradient.sign * static_cast<double>(gradient.grad[at]);
      if (gradient.decay != 0.0) grad += gradient.decay * static_cast<double>(gradient.weight[at]);
      if (adam.beta2 > 0.0 && adam.most != nullptr) scale(adam.most, at, age, by.second, 0.0);
      if (adam.beta1 > 0.0) scale(adam.first, at, age, by.first, grad);
      if (adam.beta2 > 0.0) scale(adam.second, at, age, by.second, grad * grad);
      out[i] = by.first.young || by.second.young;
    }
  });
}

}  // namespace rarefy::train
