#include "pack/stream.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "pack/bits.h"
#include "pack/groups.h"
#include "pack/row_scales.h"

namespace rarefy::matvec {
namespace {

[[noreturn]] void refuse(const Kernel& kernel, const std::string& what) {
  throw std::invalid_argument(std::string("pack: kernel ") + kernel.name + " " + what);
}

// One row, each entry as the bits that are stored, 0 where nothing is; as long as `row`, with zeros at the end.
void take_row(const WeightSource& weight, Stored stored, int number, std::vector<std::uint32_t>& row) {
  std::fill(row.begin() + weight.in, row.end(), 0);
  const std::size_t first = static_cast<std::size_t>(number) * weight.in;
  if (stored == Stored::int8)
    for (int k = 0; k < weight.in; ++k) row[k] = static_cast<std::uint8_t>(weight.codes[first + k]);
  else
    for (int k = 0; k < weight.in; ++k) row[k] = bits_of(weight.values[first + k], stored == Stored::bf16);
}

// Writes rows of entries one after the other. Sizes are those of little-endian machines' first bytes.
class Writer {
 public:
  explicit Writer(Packed& packed)
      : p_(packed), size_(size_of(packed.kernel->stored)),
        row_(static_cast<std::size_t>(std::max(packed.in, 4 * packed.chunks() * packed.groups.columns()) + chunk_columns)) {
    const std::size_t most = static_cast<std::size_t>(p_.chunks()) * (8 + chunk_columns * size_) + sizeof(std::uint32_t);
    buffer_.resize(p_.kernel->format == Format::index ? most + 2 * static_cast<std::size_t>(p_.in) : most);
  }

  void row(const WeightSource& weight, int number) {
    take_row(weight, p_.kernel->stored, number, row_);
    at_ = buffer_.data();
    if (p_.kernel->format == Format::index) indexed();
    else
      for (int chunk = 0; chunk < p_.chunks(); ++chunk) p_.kernel->format == Format::dense ? dense(chunk) : masked(chunk);
    p_.bytes.append(buffer_.data(), at_);
    p_.entries.push_back(static_cast<std::uint32_t>(p_.in - std::count(row_.begin(), row_.begin() + p_.in, 0u)));
  }

 private:
  void put(std::uint32_t bits) {  // whole words: the next one overwrites what is too much
    std::memcpy(at_, &bits, sizeof bits);
    at_ += size_;
  }

  void dense(int chunk) {
    for (int i = 0; i < chunk_columns; ++i) put(row_[chunk * chunk_columns + i]);
  }

  int column(int chunk, int unit, int i) const {
    if (p_.groups.of != 0) return (4 * chunk + unit) * p_.groups.columns() + i;
    return chunk * chunk_columns + column_at(*p_.kernel, unit * unit_columns + i);
  }

  // Exact integers may have zeros among their values, so that each unit has as many bits as it has room for.
  void masked(int chunk) {
    const Kernel& kernel = *p_.kernel;
    const bool fixed = kernel.format == Format::fixed, fill = fixed && kernel.multiply8 != nullptr;
    unsigned char* const head = at_;
    at_ += 8;
    std::uint64_t mask = 0;
    for (int unit = 0; unit < 4; ++unit) {
      unsigned char* const start = at_;
      int spare = p_.groups.per_unit();
      for (int i = 0; fill && i < p_.groups.columns(); ++i) spare -= row_[column(chunk, unit, i)] != 0;
      for (int i = 0; i < unit_columns; ++i) {
        const std::uint32_t bits = i < p_.groups.columns() ? row_[column(chunk, unit, i)] : 0;
        const bool filler = fill && bits == 0 && spare > 0;
        spare -= filler;
        const bool there = bits != 0 || filler;
        std::memcpy(at_, &bits, sizeof bits);
        at_ += there ? size_ : 0;
        mask |= std::uint64_t{there} << (unit_columns * unit + i);
      }
      if (!fixed) continue;
      unsigned char* const end = start + p_.groups.per_unit() * size_;
      std::fill(at_, end, std::uint8_t{0});
      at_ = end;
    }
    std::memcpy(head, &mask, 8);
  }

  void indexed() {
    std::vector<std::uint16_t> columns;
    for (int k = 0; k < p_.in; ++k)
      if (row_[k] != 0) columns.push_back(static_cast<std::uint16_t>(k));
    for (std::size_t i = 0; i < columns.size(); i += unit_columns) {
      const std::size_t used = std::min<std::size_t>(unit_columns, columns.size() - i);
      std::memcpy(at_, columns.data() + i, 2 * used);
      at_ += 2 * used;
      for (std::size_t j = i; j < i + used; ++j) put(row_[columns[j]]);
    }
  }

  Packed& p_;
  int size_;
  std::vector<std::uint32_t> row_;
  std::vector<unsigned char> buffer_;  // of a row
  unsigned char* at_ = nullptr;
};

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  const bool bytes = kernel.stored == Stored::int8;
  if (bytes) require_row_scales(weight, kernel.name);
  if (kernel.format == Format::index && weight.in > 65536) refuse(kernel, "holds 16-bit columns, got " + std::to_string(weight.in) + " inputs");
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  if (kernel.format == Format::fixed) p.groups = find_groups(weight);
  p.starts.push_back(0);
  Writer writer(p);
  for (int row = 0; row < weight.out; ++row) {
    writer.row(weight, row);
    p.starts.push_back(p.bytes.size());
    if (!bytes) continue;
    const std::int8_t* const codes = weight.codes + static_cast<std::size_t>(row) * weight.in;
    p.sums.push_back(std::accumulate(codes, codes + weight.in, std::int32_t{0}));
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
