#include "bind/conv_direct.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind/conv.h"
#include "bind/packed.h"
#include "ops/conv_direct.h"

namespace nb = nanobind;

namespace rarefy {
namespace {

const conv_direct::Kernel& kernel_named(const std::string& name) {
  for (const conv_direct::Kernel* kernel : conv_direct::kernels())
    if (name == kernel->name) {
      require_isa("pack_conv", name, kernel->isa);
      return *kernel;
    }
  throw std::invalid_argument("pack_conv: no kernel is called '" + name + "'");
}

conv_direct::Packed lay_out(const float* weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps, const std::string& name) {
  const conv::Window window = window_of(sizes, steps);
  const auto [out, in, groups, height, width] = sizes;
  return conv_direct::pack(weight, out, in, groups, window, kernel_named(name));
}

conv_direct::Packed see(const Mapping& file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
                        const PackedConv::Steps& steps, const std::string& name) {
  conv_direct::Packed packed;
  packed.kernel = &kernel_named(name);
  BlobReader blob(file.part(at, bytes), bytes, name);
  blob(packed);
  blob.finish();
  const auto [out, in, groups, height, width] = sizes;
  if (std::tie(packed.out, packed.in, packed.groups) != std::tie(out, in, groups) || packed.window != window_of(sizes, steps))
    throw std::invalid_argument("packed bytes: a convolution of another size or window than what was asked for");
  return packed;
}

class PackedDirect {
 public:
  PackedDirect(std::uintptr_t weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps, const std::string& name)
      : packed_(lay_out(at<float>(weight), sizes, steps, name)) {
    Packed::count_live(1);
  }
  PackedDirect(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
               const PackedConv::Steps& steps, const std::string& name)
      : file_(std::move(file)), packed_(see(*file_, at, bytes, sizes, steps, name)) {
    Packed::count_live(1);
  }
  ~PackedDirect() { Packed::count_live(-1); }
  PackedDirect(const PackedDirect&) = delete;
  PackedDirect& operator=(const PackedDirect&) = delete;

  void convolve_across(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                       std::uintptr_t bias, std::uintptr_t residual, int activation, std::uintptr_t y, int threads) const {
    conv_direct::convolve_across(packed_, places_, across_problem(x, image, place, bias, residual, activation, y), threads);
  }
  void unpack(std::uintptr_t to) const { conv_direct::unpack(packed_, at<float>(to)); }
  std::size_t save(std::uintptr_t to) const {
    BlobWriter writer(at<std::uint8_t>(to));
    writer(packed_);
    return writer.finish(packed_.kernel->name);
  }
  std::size_t nnz() const { return packed_.values.size(); }
  std::size_t bytes() const { return packed_.bytes(); }

 private:
  std::shared_ptr<Mapping> file_;  // what the weight sees
  conv_direct::Packed packed_;
  mutable conv_direct::Places places_;
};

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

std::vector<ListedConv> direct_listing() {
  std::vector<ListedConv> out;
  for (const conv_direct::Kernel* k : conv_direct::kernels()) out.emplace_back(k->name, isa_name(k->isa), 1, k->pixels, false);
  return out;
}

}  // namespace

void bind_conv_direct(nb::module_& m) {
  nb::class_<PackedDirect>(m, "PackedDirect")
      .def(nb::init<std::uintptr_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(), Unlocked())
      .def(nb::init<std::shared_ptr<Mapping>, std::size_t, std::size_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(),
           Unlocked())
      .def("convolve_across", &PackedDirect::convolve_across, Unlocked())
      .def("save", &PackedDirect::save, Unlocked())
      .def("unpack", &PackedDirect::unpack, Unlocked())
      .def_prop_ro("nnz", &PackedDirect::nnz)
      .def_prop_ro("nbytes", &PackedDirect::bytes);
  m.def("direct_kernels", &direct_listing, "(name, isa, rows, pixels, together) of kernels that read inputs across the lanes in place");
}

}  // namespace rarefy
