#include "bind/depthwise.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind/conv8.h"
#include "bind/packed.h"
#include "ops/depthwise.h"

namespace nb = nanobind;

namespace rarefy {
namespace {

template <class Kernel>
const Kernel& checked(const Kernel* kernel, const std::string& name) {
  if (kernel == nullptr) throw std::invalid_argument("pack_conv: no depthwise kernel is called '" + name + "'");
  require_isa("pack_conv", name, kernel->isa);
  return *kernel;
}

// The stride of a depthwise 3x3 window. Throws std::invalid_argument for another.
int stride_of(const PackedConv::Sizes& sizes, const PackedConv::Steps& steps) {
  const conv::Window w = window_of(sizes, steps);
  const auto [out, in, groups, height, width] = sizes;
  if (in != 1 || groups != out || height != 3 || width != 3 || w.stride_y != w.stride_x || w.stride_y > 2 || w.dilation_y != 1 ||
      w.dilation_x != 1)
    throw std::invalid_argument("pack_conv: the depthwise kernels take 3x3 windows of stride 1 or 2 without dilation, a channel a group");
  return w.stride_y;
}

// The base of both: what a packed form is made of, and where it lies.
template <class P>
class Holder {
 public:
  explicit Holder(P&& packed) : packed_(std::move(packed)) { Packed::count_live(1); }
  Holder(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
         const PackedConv::Steps& steps, const std::string& name)
      : file_(std::move(file)) {
    if constexpr (std::is_same_v<P, depthwise::Packed>) packed_.kernel = &checked(depthwise::kernel(name.c_str()), name);
    else packed_.kernel = &checked(depthwise::kernel8(name.c_str()), name);
    BlobReader blob(file_->part(at, bytes), bytes, name);
    blob(packed_);
    blob.finish();
    if (packed_.channels != std::get<0>(sizes) || packed_.stride != stride_of(sizes, steps))
      throw std::invalid_argument("packed bytes: a convolution of another size or window than what was asked for");
    Packed::count_live(1);
  }
  ~Holder() { Packed::count_live(-1); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  std::size_t save(std::uintptr_t to) const {
    BlobWriter writer(at<std::uint8_t>(to));
    writer(packed_);
    return writer.finish(packed_.kernel->name);
  }
  std::size_t nnz() const { return packed_.nnz; }
  const P& packed() const { return packed_; }

 private:
  std::shared_ptr<Mapping> file_;  // what the weight sees
  P packed_;
};

class PackedDepthwise : public Holder<depthwise::Packed> {
 public:
  using Holder::Holder;
  PackedDepthwise(std::uintptr_t weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps, const std::string& name)
      : Holder(depthwise::pack(at<float>(weight), std::get<0>(sizes), stride_of(sizes, steps),
                               checked(depthwise::kernel(name.c_str()), name))) {}
  void convolve(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                std::uintptr_t bias, std::uintptr_t residual, int activation, std::uintptr_t y, int threads) const {
    depthwise::convolve(packed(), conv_problem(x, image, place, bias, residual, activation, y), threads);
  }
  void unpack(std::uintptr_t to) const { std::copy(packed().weight.begin(), packed().weight.end(), at<float>(to)); }
  std::size_t bytes() const { return packed().weight.size() * sizeof(float); }
};

class PackedDepthwise8 : public Holder<depthwise::Packed8> {
 public:
  using Holder::Holder;
  PackedDepthwise8(std::uintptr_t codes, std::uintptr_t scale, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps,
                   const std::string& name)
      : Holder(depthwise::pack8(at<std::int8_t>(codes), at<float>(scale), std::get<0>(sizes), stride_of(sizes, steps),
                                checked(depthwise::kernel8(name.c_str()), name))) {}
  void convolve(const Conv8Call& call, int threads) const { depthwise::convolve8(packed(), problem8(call), threads); }
  void unpack(std::uintptr_t to) const { depthwise::unpack8(packed(), at<float>(to)); }
  std::size_t bytes() const { return packed().bytes(); }
};

using Mapped = std::shared_ptr<Mapping>;
using Unlocked = nb::call_guard<nb::gil_scoped_release>;

template <class P>
void convolve8(const P& packed, std::uintptr_t x, std::uintptr_t scale, std::uintptr_t zero, int step,
               const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place, std::uintptr_t bias,
               std::uintptr_t residual, float residual_scale, int residual_zero, int activation, std::uintptr_t y, bool in_words,
               float to_scale, int to_zero, int threads) {
  packed.convolve({x, scale, zero, step, image, place, bias, residual, residual_scale, residual_zero, activation, y, in_words,
                   to_scale, to_zero}, threads);
}

// What all packed convolutions have.
template <class P>
nb::class_<P> bind_packed(nb::module_& m, const char* name) {
  return nb::class_<P>(m, name)
      .def(nb::init<Mapped, std::size_t, std::size_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(),
           Unlocked())
      .def("save", &P::save, Unlocked())
      .def("unpack", &P::unpack, Unlocked())
      .def_prop_ro("nnz", &P::nnz)
      .def_prop_ro("nbytes", &P::bytes);
}

template <class P>
void bind_eight(nb::module_& m, const char* name) {
  bind_packed<P>(m, name)
      .def(nb::init<std::uintptr_t, std::uintptr_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(),
           Unlocked())
      .def("convolve", &convolve8<P>, Unlocked());
}

}  // namespace

void bind_conv8(nb::module_& m) {
  bind_eight<PackedConv8>(m, "PackedConv8");
  m.def("conv8_kernels", &conv8_listing, "(name, isa, rows, pixels, together) of every 8-bit convolution kernel");
  m.def("to_words", &to_words, Unlocked());
  m.def("from_words", &from_words, Unlocked());
  m.def("max_pool_words", &max_pool_words, Unlocked());
}

void bind_depthwise(nb::module_& m) {
  bind_packed<PackedDepthwise>(m, "PackedDepthwise")
      .def(nb::init<std::uintptr_t, const PackedConv::Sizes&, const PackedConv::Steps&, const std::string&>(), Unlocked())
      .def("convolve", &PackedDepthwise::convolve, Unlocked());
  bind_eight<PackedDepthwise8>(m, "PackedDepthwise8");
  m.def("depthwise_kernels", [] {
    return std::make_tuple(std::string(depthwise::best(allowed_isa()).name), std::string(depthwise::best8(allowed_isa()).name));
  }, "names of the best depthwise kernels that this process may use: of floats, of words");
}

}  // namespace rarefy
