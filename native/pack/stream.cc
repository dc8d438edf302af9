#include "pack/stream.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pack/groups.h"
#include "pack/keep.h"

namespace rarefy::matvec {
namespace {

[[noreturn]] void refuse(const Kernel& kernel, const std::string& what) {
  throw std::invalid_argument(std::string("pack: kernel ") + kernel.name + " " + what);
}

std::uint16_t to_bf16(float value) {  // to nearest, ties to even; a NaN stays one
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float from_bf16(std::uint16_t high) { return std::bit_cast<float>(static_cast<std::uint32_t>(high) << 16); }

// The entries of one row, whatever they come from.
struct Source {
  const WeightSource& weight;
  Stored stored;
  int row;

  std::size_t at(int k) const { return static_cast<std::size_t>(row) * weight.in + k; }
  bool there(int k) const {
    if (stored == Stored::int8) return weight.codes[at(k)] != 0;
    const float value = weight.values[at(k)];
    return kept(stored == Stored::bf16 ? from_bf16(to_bf16(value)) : value);
  }
  void put(int k, unsigned char* to) const {
    if (stored == Stored::int8) std::memcpy(to, weight.codes + at(k), 1);
    if (stored == Stored::fp32) std::memcpy(to, weight.values + at(k), 4);
    if (stored == Stored::bf16) {
      const std::uint16_t high = to_bf16(weight.values[at(k)]);
      std::memcpy(to, &high, 2);
    }
  }
};

class Writer {
 public:
  Writer(Packed& packed, const Source& source) : p_(packed), source_(source), size_(size_of(source.stored)) {}

  void row() {
    if (p_.kernel->format == Format::index) return indexed();
    for (int chunk = 0; chunk < p_.chunks(); ++chunk) {
      if (p_.kernel->format == Format::dense) dense(chunk);
      else masked(chunk);
    }
  }

 private:
  unsigned char* more(int bytes) {
    p_.bytes.resize(p_.bytes.size() + bytes);
    return p_.bytes.data() + p_.bytes.size() - bytes;
  }
  void value(int k) { source_.put(k, more(size_)); }

  void dense(int chunk) {
    const int first = chunk * chunk_columns, last = std::min(first + chunk_columns, p_.in);
    unsigned char* const to = more(chunk_columns * size_);
    for (int k = first; k < last; ++k)
      if (source_.there(k)) source_.put(k, to + (k - first) * size_);
  }

  int column(int chunk, int unit, int i) const {
    if (p_.groups.of != 0) return (4 * chunk + unit) * p_.groups.columns() + i;
    return chunk * chunk_columns + column_at(*p_.kernel, unit * unit_columns + i);
  }

  // Exact integers may have zeros among their values, so that each unit has as many bits as it has room for.
  void masked(int chunk) {
    const Kernel& kernel = *p_.kernel;
    const bool fill = kernel.format == Format::fixed && kernel.multiply8 != nullptr;
    const std::size_t head = p_.bytes.size();
    more(8);
    std::uint64_t mask = 0;
    for (int unit = 0; unit < 4; ++unit) {
      std::uint64_t bits = 0;
      int room = p_.groups.per_unit();
      for (int i = 0; i < p_.groups.columns(); ++i)
        if (const int k = column(chunk, unit, i); k < p_.in && source_.there(k)) bits |= std::uint64_t{1} << i, --room;
      for (int i = 0; fill && room > 0; ++i)
        if (!(bits >> i & 1)) bits |= std::uint64_t{1} << i, --room;
      for (int i = 0; i < unit_columns; ++i)
        if (bits >> i & 1) {
          unsigned char* const to = more(size_);
          if (const int k = column(chunk, unit, i); i < p_.groups.columns() && k < p_.in) source_.put(k, to);
        }
      if (p_.kernel->format == Format::fixed) more(std::max(0, room) * size_);
      mask |= bits << (unit_columns * unit);
    }
    std::memcpy(p_.bytes.data() + head, &mask, 8);
  }

  void indexed() {
    std::vector<std::uint16_t> columns;
    for (int k = 0; k < p_.in; ++k)
      if (source_.there(k)) columns.push_back(static_cast<std::uint16_t>(k));
    for (std::size_t i = 0; i < columns.size(); i += unit_columns) {
      const std::size_t used = std::min<std::size_t>(unit_columns, columns.size() - i);
      std::memcpy(more(static_cast<int>(2 * used)), columns.data() + i, 2 * used);
      for (std::size_t j = i; j < i + used; ++j) value(columns[j]);
    }
  }

  Packed& p_;
  const Source& source_;
  int size_;
};

std::uint32_t count(const Source& source) {
  std::uint32_t n = 0;
  for (int k = 0; k < source.weight.in; ++k) n += source.there(k);
  return n;
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  const bool bytes = kernel.stored == Stored::int8;
  if (bytes && weight.groups != 1) refuse(kernel, "takes one scale a row, got " + std::to_string(weight.groups));
  if (kernel.format == Format::index && weight.in > 65536) refuse(kernel, "holds 16-bit columns, got " + std::to_string(weight.in) + " inputs");
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  if (kernel.format == Format::fixed) p.groups = find_groups(weight);
  p.starts.push_back(0);
  for (int row = 0; row < weight.out; ++row) {
    const Source source{weight, kernel.stored, row};
    p.entries.push_back(count(source));
    Writer(p, source).row();
    p.starts.push_back(p.bytes.size());
    if (!bytes) continue;
    std::int32_t sum = 0;
    for (int k = 0; k < weight.in; ++k) sum += weight.codes[source.at(k)];
    p.sums.push_back(sum);
    p.scales.push_back(weight.scales[row]);
  }
  p.bytes.resize(p.bytes.size() + overread);
  p.bytes.shrink_to_fit();
  return p;
}

std::size_t Packed::nnz() const {
  std::size_t n = 0;
  for (const std::uint32_t e : entries) n += e;
  return n;
}

std::size_t Packed::size() const {
  return bytes.size() + starts.size() * sizeof(std::size_t) + 4 * (entries.size() + scales.size() + sums.size());
}

Rows Packed::rows() const {
  return {bytes.data(), starts.data(), entries.data(), scales.data(), sums.data(), chunks(), groups.per_unit()};
}

namespace {

float value_at(const Packed& p, int row, const unsigned char* at) {
  float value;
  std::uint16_t high;
  switch (p.kernel->stored) {
    case Stored::fp32: std::memcpy(&value, at, 4); return value;
    case Stored::bf16: std::memcpy(&high, at, 2); return from_bf16(high);
    case Stored::int8: break;
  }
  return p.scales[row] * static_cast<float>(static_cast<std::int8_t>(*at));
}

void unpack_masked(const Packed& p, int row, const unsigned char* at, float* to) {
  const int size = size_of(p.kernel->stored), columns = p.groups.columns();
  for (int chunk = 0; chunk < p.chunks(); ++chunk) {
    std::uint64_t mask;
    std::memcpy(&mask, at, 8);
    at += 8;
    for (int unit = 0; unit < 4; ++unit) {
      const unsigned char* from = at;
      for (int i = 0; i < unit_columns; ++i) {
        const int k = p.groups.of != 0 ? (4 * chunk + unit) * columns + i
                                       : chunk * chunk_columns + column_at(*p.kernel, unit * unit_columns + i);
        if (!(mask >> (unit_columns * unit + i) & 1)) continue;
        if (i < columns && k < p.in) to[k] = value_at(p, row, from);
        from += size;
      }
      at = p.kernel->format == Format::fixed ? at + p.groups.per_unit() * size : from;
    }
  }
}

void unpack_indexed(const Packed& p, int row, const unsigned char* at, float* to) {
  const int size = size_of(p.kernel->stored);
  for (int left = static_cast<int>(p.entries[row]); left > 0; left -= unit_columns) {
    const int used = std::min(left, unit_columns);
    for (int i = 0; i < used; ++i) {
      std::uint16_t column;
      std::memcpy(&column, at + 2 * i, 2);
      to[column] = value_at(p, row, at + 2 * used + i * size);
    }
    at += used * (2 + size);
  }
}

}  // namespace

void unpack(const Packed& p, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * p.in, 0.0f);
  for (int row = 0; row < p.out; ++row) {
    float* const to = weight + static_cast<std::size_t>(row) * p.in;
    const unsigned char* const at = p.bytes.data() + p.starts[row];
    if (p.kernel->format == Format::index) unpack_indexed(p, row, at, to);
    else if (p.kernel->format != Format::dense) unpack_masked(p, row, at, to);
    else
      for (int k = 0; k < p.in; ++k) to[k] = value_at(p, row, at + k * size_of(p.kernel->stored));
  }
}

}  // namespace rarefy::matvec
