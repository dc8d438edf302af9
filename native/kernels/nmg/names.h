// How a line of nmg.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_NMG_ID(isa, stored) isa##_##stored
#define RAREFY_NMG_DEFINE(isa, stored)                                                                  \
  extern const Kernel RAREFY_NMG_ID(isa, stored) = {"nmg-" #isa "-" #stored, Isa::isa, Stored::stored, \
                                                      isa::width, isa::one<Stored::stored>, isa::some<Stored::stored>};
