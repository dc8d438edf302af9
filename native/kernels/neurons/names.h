// How a line of neurons.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_NEURONS_ID(isa, stored) isa##_##stored
#define RAREFY_NEURONS_DEFINE(isa, stored)                                             \
  extern const Kernel RAREFY_NEURONS_ID(isa, stored) = {                               \
      "neurons-" #isa "-" #stored, Isa::isa, Stored::stored, isa::multiply_list<Stored::stored>, nullptr, nullptr};
#define RAREFY_NEURONS_DEFINE8(isa, stored)                                                     \
  extern const Kernel RAREFY_NEURONS_ID(isa, stored) = {                                        \
      "neurons-" #isa "-" #stored, Isa::isa, Stored::stored, nullptr, isa::round_inputs<Stored::stored>, \
      isa::multiply_bytes<Stored::stored>};
