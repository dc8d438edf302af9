// How a line of direct.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_DIRECT_ID(isa, pixels) isa##_p##pixels
#define RAREFY_DIRECT_NAME(isa, pixels) "direct-" #isa "-p" #pixels
