// A size travels as (constant, [symbols]), a part of a buffer as (buffer, offset), buffer -1 where there is none.
#include "bind/program.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "bind/packed.h"
#include "program/program.h"
#include "program/steps.h"

namespace nb = nanobind;

namespace rarefy {
namespace {

using program::Part;
using program::Program;
using program::Size;

using Sized = std::pair<std::int64_t, std::vector<int>>;
using Placed = std::pair<int, Sized>;
using Strided = std::tuple<Sized, Sized, Sized>;
// values, scale, zero, stride, the known scale or 0, the known zero point, the inverses of entries' own scales or none
using Bytes = std::tuple<Placed, Placed, Placed, std::int64_t, float, std::int32_t, Placed>;
using Indexed = std::tuple<Placed, std::int64_t, int, Placed, Sized, std::int64_t>;

Size size(const Sized& s) { return {s.first, s.second}; }
Part part(const Placed& p) { return {p.first, size(p.second)}; }
program::Strides3 strides(const Strided& s) {
  return {size(std::get<0>(s)), size(std::get<1>(s)), size(std::get<2>(s))};
}

program::RowsOf8 rows8(const Bytes& b) {
  const auto& [values, scale, zero, stride, known, known_zero, inverse] = b;
  return {part(values), part(scale), part(zero), stride, known, known_zero, part(inverse)};
}

program::Table table(const Indexed& t) {
  const auto& [values, entries, index, rows, period, first] = t;
  return {part(values), entries, static_cast<program::Table::Index>(index), part(rows), size(period), first};
}

void linear(Program& p, const Packed& packed, const Placed& x, const Sized& tokens, const Placed& bias, int activation,
            const Placed& y) {
  p.add(program::linear({&packed.layout(), part(x), size(tokens), part(bias), static_cast<Activation>(activation), part(y)}));
}

// layout, x, tokens, bias, activation, y: as `linear` takes them
using LinearArgs = std::tuple<const Packed*, Placed, Sized, Placed, int, Placed>;

program::LinearOf linear_of(const LinearArgs& args) {
  const auto& [packed, x, tokens, bias, activation, y] = args;
  return {&packed->layout(), part(x), size(tokens), part(bias), static_cast<Activation>(activation), part(y)};
}

void linear_pair(Program& p, const LinearArgs& first, const LinearArgs& second) {
  p.add(program::linear_pair(linear_of(first), linear_of(second)));
}

void linear8(Program& p, const Packed& packed, const Bytes& x, const Sized& tokens, const Placed& bias, int activation,
             const Placed& y, const Bytes& y8) {
  p.add(program::linear8({&packed.layout(), rows8(x), size(tokens), part(bias), static_cast<Activation>(activation),
                          part(y), rows8(y8)}));
}

void quantise(Program& p, const Placed& x, const Sized& rows, int features, const Bytes& to) {
  p.add(program::quantise(part(x), size(rows), features, rows8(to)));
}

void norm(Program& p, const Placed& x, const Placed& residual, const Sized& residual_rows, const Sized& rows,
          int features, const Placed& weight, const Placed& bias, float eps, const Placed& total, const Placed& y,
          const Bytes& y8) {
  p.add(program::norm({part(x), part(residual), size(residual_rows), size(rows), features, part(weight), part(bias), eps,
                       part(total), part(y), rows8(y8)}));
}

void embed(Program& p, const std::vector<Indexed>& tables, const Sized& rows, int features, const Placed& weight,
           const Placed& bias, float eps, const Placed& y, const Bytes& y8) {
  program::EmbedOf of{{}, size(rows), features, part(weight), part(bias), eps, part(y), rows8(y8)};
  for (const Indexed& t : tables) of.tables.push_back(table(t));
  p.add(program::embed(std::move(of)));
}

void attention(Program& p, const std::tuple<Placed, Placed, Placed, Placed, Placed>& parts, bool mask_is_bytes,
               const std::tuple<Strided, Strided, Strided, Strided, Strided>& at,
               const std::tuple<Sized, Sized, Sized, Sized>& sizes, int depth, float scale,
               bool eight) {
  const auto& [q, k, v, mask, y] = parts;
  const auto& [q_at, k_at, v_at, mask_at, y_at] = at;
  const auto& [batch, heads, queries, keys] = sizes;
  p.add(program::attention({part(q), part(k), part(v), part(mask), part(y), mask_is_bytes, strides(q_at), strides(k_at),
                            strides(v_at), strides(mask_at), strides(y_at), size(batch), size(heads), size(queries),
                            size(keys), depth, scale, eight}));
}

void activate(Program& p, const Placed& x, const Sized& count, int activation, const Placed& y) {
  p.add(program::activate(part(x), size(count), static_cast<Activation>(activation), part(y)));
}

void combine(Program& p, bool multiply, const Placed& a, const Placed& b, const Sized& count, const Sized& period,
             const Placed& y) {
  p.add(program::combine(multiply, part(a), part(b), size(count), size(period), part(y)));
}

void copy(Program& p, const Placed& x, const std::tuple<Sized, Sized, Sized, Sized>& sizes, const Strided& at,
          const Placed& y) {
  const auto& [a, b, c, d] = sizes;
  const program::Strides3 s = strides(at);
  p.add(program::copy(part(x), {size(a), size(b), size(c), size(d)}, {s.batch, s.head, s.token}, part(y)));
}

void not_zero(Program& p, const Placed& x, const Sized& count, const Placed& y) {
  p.add(program::not_zero(part(x), size(count), part(y)));
}

// Copied into the arena before the lock is released: no memory is allocated for them.
void fill(program::Arena& arena, const nb::tuple& symbols, const nb::tuple& addresses) {
  if (symbols.size() != arena.symbols.size() || addresses.size() != arena.given.size())
    throw std::invalid_argument("program: the wrong number of symbols or addresses");
  for (std::size_t i = 0; i < arena.symbols.size(); ++i) arena.symbols[i] = nb::cast<std::int64_t>(symbols[i]);
  for (std::size_t i = 0; i < arena.given.size(); ++i) arena.given[i] = at<void>(nb::cast<std::uintptr_t>(addresses[i]));
}

void run(const Program& p, const nb::tuple& symbols, const nb::tuple& addresses, int threads) {
  const Program::Lease lease = p.lease();
  fill(*lease, symbols, addresses);
  const nb::gil_scoped_release unlocked;
  p.run(*lease, threads, nullptr);
}

// batch: the symbols that are its size; each: entries of a part; steps: bytes between entries, an argument each.
void run_apart(const Program& p, const nb::tuple& symbols, const nb::tuple& addresses, const std::vector<int>& batch,
               std::int64_t each, const std::vector<std::int64_t>& steps, int threads) {
  const Program::Lease lease = p.lease();
  fill(*lease, symbols, addresses);
  const bool known = std::all_of(batch.begin(), batch.end(), [&](int symbol) { return symbol >= 0 && symbol < p.symbols(); });
  if (batch.empty() || !known || each < 1 || steps.size() != addresses.size())
    throw std::invalid_argument("program: parts of no batch, of no entry, or with the wrong number of steps");
  const nb::gil_scoped_release unlocked;
  p.run_apart(*lease, {batch, each, steps}, threads);
}

std::vector<std::pair<std::string, double>> profile(const Program& p, const nb::tuple& symbols,
                                                    const nb::tuple& addresses, int threads) {
  const Program::Lease lease = p.lease();
  fill(*lease, symbols, addresses);
  const std::vector<const char*> kinds = p.kinds();
  std::vector<double> nanoseconds(kinds.size());
  {
    const nb::gil_scoped_release unlocked;
    p.run(*lease, threads, nanoseconds.data());
  }
  std::vector<std::pair<std::string, double>> out;
  for (std::size_t i = 0; i < kinds.size(); ++i) out.emplace_back(kinds[i], nanoseconds[i]);
  return out;
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Program>(m, "Program")
      .def(nb::init<int, int>())
      .def("given", &Program::given)
      .def("constant", [](Program& p, std::uintptr_t address) { return p.constant(at<void>(address)); })
      .def("arena", [](Program& p, const Sized& bytes, int slot) { return p.arena(size(bytes), slot); })
      .def("linear", &linear)
      .def("linear_pair", &linear_pair)
      .def("linear8", &linear8)
      .def("quantise", &quantise)
      .def("norm", &norm)
      .def("embed", &embed)
      .def("attention", &attention)
      .def("activate", &activate)
      .def("combine", &combine)
      .def("copy", &copy)
      .def("not_zero", &not_zero)
      .def("run", &run)
      .def("run_apart", &run_apart)
      .def("profile", &profile)
      .def_prop_ro("allocations", &Program::allocations);
}

}  // namespace rarefy
