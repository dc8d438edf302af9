// Eight rows' stored values that lie side by side, each in all lanes. Included after kernels/side_by_side.h.

template <Stored stored>
struct EightValues {
  const std::int8_t* values;
  explicit EightValues(const unsigned char* at) : values(reinterpret_cast<const std::int8_t*>(at)) {
    static_assert(stored == Stored::int8);
  }
  Vec in_all_lanes(int row) const { return set1(static_cast<float>(values[row])); }
};

template <>
struct EightValues<Stored::fp32> : ByShuffles<8> {
  explicit EightValues(const unsigned char* at) : ByShuffles(reinterpret_cast<const float*>(at)) {}
};
