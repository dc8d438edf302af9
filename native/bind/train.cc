#include "bind/train.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "bind/packed.h"
#include "ops/train.h"
#include "ops/young.h"

namespace rarefy {
namespace {

using Image = std::array<int, 3>;   // channels, height, width
using Window = std::array<int, 8>;  // kernel, stride, padding, dilation, each down and across

train::Geometry geometry(const Image& in, int outputs, int groups, const Window& w) {
  return {{in[0], in[1], in[2]}, outputs, groups, {w[0], w[1]}, {w[2], w[3]}, {w[4], w[5]}, {w[6], w[7]}};
}

void forward(const train::Index& index, std::uintptr_t values, std::uintptr_t x, std::int64_t images, std::uintptr_t bias,
             std::uintptr_t y, int threads) {
  index.forward(at<float>(values), at<float>(x), images, at<float>(bias), at<float>(y), threads);
}

void input_grad(const train::Index& index, std::uintptr_t values, std::uintptr_t dy, std::int64_t images,
                std::uintptr_t dx, int threads) {
  index.input_grad(at<float>(values), at<float>(dy), images, at<float>(dx), threads);
}

void weight_grad(const train::Index& index, std::uintptr_t dy, std::uintptr_t x, std::int64_t images,
                 std::uintptr_t dvalues, int threads) {
  index.weight_grad(at<float>(dy), at<float>(x), images, at<float>(dvalues), threads);
}

// young: (positions, whether those are int64, ages, count, size of the parameter); gradient: (grad, weight, sign, decay);
// adam: (exp_avg, exp_avg_sq, max_exp_avg_sq or 0, beta1, beta2, step).
void correct_adam(const std::tuple<std::uintptr_t, bool, std::uintptr_t, std::int64_t, std::int64_t>& young,
                  const std::tuple<std::uintptr_t, std::uintptr_t, double, double>& gradient,
                  const std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, double, double, std::int64_t>& adam,
                  double old, std::uintptr_t out, int threads) {
  const auto [index, wide, age, count, size] = young;
  const auto [grad, weight, sign, decay] = gradient;
  const auto [first, second, most, beta1, beta2, step] = adam;
  train::correct({at<void>(index), wide, at<std::int32_t>(age), count, size}, {at<float>(grad), at<float>(weight), sign, decay},
                 {at<float>(first), at<float>(second), at<float>(most), beta1, beta2, step}, old, at<std::uint8_t>(out),
                 threads);
}

}  // namespace

void bind_train(nanobind::module_& m) {
  namespace nb = nanobind;
  using Release = nb::call_guard<nb::gil_scoped_release>;
  m.def("correct_adam", &correct_adam, Release());
  nb::class_<train::Index>(m, "TrainIndex", "The checked index of a sparse weight in training, for one size of image.")
      .def(
          "__init__",
          [](train::Index* self, const Image& in, int outputs, int groups, const Window& window, std::uintptr_t offsets,
             std::uintptr_t columns, std::int64_t entries) {
            new (self) train::Index(geometry(in, outputs, groups, window), at<std::int64_t>(offsets),
                                    at<std::int32_t>(columns), entries);
          },
          Release())
      .def("forward", &forward, Release())
      .def("input_grad", &input_grad, Release())
      .def("weight_grad", &weight_grad, Release())
      .def_prop_ro("entries", &train::Index::entries)
      .def_prop_ro("nbytes", &train::Index::bytes);
}

}  // namespace rarefy
