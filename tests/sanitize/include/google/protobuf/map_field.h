// The tsan preset finds this file before protobuf's own map_field.h. Compiled with the sanitizer, that header gives
// every map two more members, but Debian's libprotobuf is compiled without them, so reflection would read a map's
// lists at the wrong offset. This file includes the header as libprotobuf saw it; its own includes are not affected.
#pragma once
#include <atomic>
#include <functional>

#include "google/protobuf/arena.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/generated_message_reflection.h"
#include "google/protobuf/generated_message_util.h"
#include "google/protobuf/map_entry.h"
#include "google/protobuf/map_field_lite.h"
#include "google/protobuf/map_type_handler.h"
#include "google/protobuf/message.h"
#include "google/protobuf/port.h"
#include "google/protobuf/repeated_field.h"
#include "google/protobuf/stubs/mutex.h"
#include "google/protobuf/unknown_field_set.h"

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include_next <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
