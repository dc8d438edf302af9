#include "bind/winograd.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "bind/conv.h"
#include "bind/packed.h"
#include "ops/winograd.h"

namespace nb = nanobind;

namespace rarefy {
namespace {

const winograd::Kernel& kernel_named(const std::string& name) {
  for (const winograd::Kernel* kernel : winograd::kernels())
    if (name == kernel->name) {
      require_isa("pack_conv", name, kernel->isa);
      return *kernel;
    }
  throw std::invalid_argument("pack_conv: no kernel is called '" + name + "'");
}

const winograd::Kernel& kernel_for(const PackedConv::Sizes& sizes, const conv::Window& window, const std::string& name) {
  const winograd::Kernel& kernel = kernel_named(name);
  if (const char* why = winograd::why_not(window, std::get<2>(sizes), kernel))
    throw std::invalid_argument("pack_conv: kernel " + name + " does not take this window: " + why);
  return kernel;
}

winograd::Packed lay_out(const float* weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps, const std::string& name) {
  const conv::Window window = window_of(sizes, steps);
  return winograd::pack(weight, std::get<0>(sizes), std::get<1>(sizes), window, kernel_for(sizes, window, name));
}

winograd::Packed see(const Mapping& file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
                     const PackedConv::Steps& steps, const std::string& name) {
  const conv::Window window = window_of(sizes, steps);
  winograd::Packed packed;
  packed.kernel = &kernel_for(sizes, window, name);
  BlobReader blob(file.part(at, bytes), bytes, name);
  blob(packed);
  blob.finish();
  if (std::tie(packed.out, packed.in) != std::tie(std::get<0>(sizes), std::get<1>(sizes)) || packed.window != window)
    throw std::invalid_argument("packed bytes: a convolution of another size or window than what was asked for");
  return packed;
}

winograd::Pool pool_of(const PoolWindow& window, const std::tuple<int, int>& pooled) {
  const auto [kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x] = window;
  if (dilation_y != 1 || dilation_x != 1) throw std::invalid_argument("convolve_pooled: the pooling is dilated");
  return {{kernel_y, kernel_x}, {stride_y, stride_x}, {padding_y, padding_x}, std::get<0>(pooled), std::get<1>(pooled)};
}

class PackedWinograd {
 public:
  PackedWinograd(std::uintptr_t weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps, const std::string& name)
      : packed_(lay_out(at<float>(weight), sizes, steps, name)) {
    Packed::count_live(1);
  }
  PackedWinograd(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
               const PackedConv::Steps& steps, const std::string& name)
      : file_(std::move(file)), packed_(see(*file_, at, bytes, sizes, steps, name)) {
    Packed::count_live(1);
  }
  ~PackedWinograd() { Packed::count_live(-1); }
  PackedWinograd(const PackedWinograd&) = delete;
  PackedWinograd& operator=(const PackedWinograd&) = delete;

  void convolve_across(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                       std::uintptr_t bias, std::uintptr_t residual, int activation, std::uintptr_t y, int threads) const {
    winograd::convolve_across(packed_, across_problem(x, image, place, bias, residual, activation, y), threads);
  }
  void convolve_pooled(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                       std::uintptr_t bias, int activation, const PoolWindow& window, const std::tuple<int, int>& pooled,
                       std::uintptr_t y, int threads) const {
    winograd::convolve_pooled(packed_, across_problem(x, image, place, bias, 0, activation, y), pool_of(window, pooled), threads);
  }
  void unpack(std::uintptr_t to) const { std::copy(packed_.weight.begin(), packed_.weight.end(), at<float>(to)); }
  std::size_t save(std::uintptr_t to) const {
    BlobWriter writer(at<std::uint8_t>(to));
    writer(packed_);
    return writer.finish(packed_.kernel->name);
  }
  std::size_t nnz() const { return packed_.nnz(); }
  std::size_t bytes() const { return packed_.bytes(); }

 private:
  std::shared_ptr<Mapping> file_;  // what the weight sees
  winograd::Packed packed_;
};

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

// name, isa, outputs of a tile and taps along each axis
std::vector<std::tuple<std::string, std::string, int, int>> winograd_listing() {
  std::vector<std::tuple<std::string, std::string, int, int>> out;
  for (const winograd::Kernel* k : winograd::kernels()) out.emplace_back(k->name, isa_name(k->isa), k->outputs, k->taps);
  return out;
}

}  // namespace

void bind_winograd(nb::module_& m) {
  nb::class_<PackedWinograd>(m, "PackedWinograd")
      .def(nb::init<std::uintptr_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(), Unlocked())
      .def(nb::init<std::shared_ptr<Mapping>, std::size_t, std::size_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(),
           Unlocked())
      .def("convolve_across", &PackedWinograd::convolve_across, Unlocked())
      .def("convolve_pooled", &PackedWinograd::convolve_pooled, Unlocked())
      .def("save", &PackedWinograd::save, Unlocked())
      .def("unpack", &PackedWinograd::unpack, Unlocked())
      .def_prop_ro("nnz", &PackedWinograd::nnz)
      .def_prop_ro("nbytes", &PackedWinograd::bytes);
  m.def("winograd_kernels", &winograd_listing, "(name, isa, outputs, taps) of kernels for dense weights and images across the lanes");
}

}  // namespace rarefy
