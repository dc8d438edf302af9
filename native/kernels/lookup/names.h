// How a line of lookup.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_LOOKUP_ID(isa, stored) isa##_##stored
#define RAREFY_LOOKUP_DEFINE(isa, stored)                                                                     \
  extern const Kernel RAREFY_LOOKUP_ID(isa, stored) = {"lookup-" #isa "-" #stored, Isa::isa, Stored::stored, \
                                                       isa::width, isa::multiply_bands<Stored::stored>};
