# The launch library: built without CUDA, tested over a driver of our own.
LAUNCH_TESTED := $(addprefix engine/launch/,times.c admit.c flight.c memory.c lookup.c calls.c gate.c)
LAUNCH_SOURCES := $(LAUNCH_TESTED) engine/launch/dlsym.c
LAUNCH_HEADERS := engine/launch/calls.def $(wildcard engine/launch/*.h engine/launch/tests/*.h)
LAUNCH_TESTS := $(patsubst engine/launch/tests/%.c,$(BUILD)/tests/%,$(wildcard engine/launch/tests/test_launch_*.c))
LAUNCH_DRIVER := $(BUILD)/tests/driver/libcuda.so.1

# Hidden but for what a program looks for.
$(BUILD)/libpipefill_launch.so: $(LAUNCH_SOURCES) $(LAUNCH_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) engine/launch/launch.map | $(BUILD)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -shared -o $@ $(LAUNCH_SOURCES) $(LIB_SOURCES) -lpthread \
		-Wl,--version-script=engine/launch/launch.map -Wl,-z,defs,-z,relro,-z,now

# A driver for tests: libcuda.so.1 by name, without a device.
$(LAUNCH_DRIVER): engine/launch/tests/fake_cuda.c $(LAUNCH_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) -O1 -g -fPIC -shared -Iengine/launch -o $@ $< -Wl,-soname,libcuda.so.1 -Wl,-Bsymbolic -lpthread

$(BUILD)/tests/test_launch_%: engine/launch/tests/test_launch_%.c $(LAUNCH_TESTED) $(LAUNCH_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) $(wildcard spank/tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_SANITIZE) -Ispank/tests -Iengine/launch -o $@ $< $(LAUNCH_TESTED) $(LIB_SOURCES) -lpthread -lm

$(BUILD)/tests/wrap_next.so: engine/launch/tests/wrap_next.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O1 -g -fPIC -shared -o $@ $<

$(BUILD)/tests/preloaded: engine/launch/tests/preloaded.c $(LAUNCH_DRIVER) $(LAUNCH_HEADERS) $(wildcard spank/tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) -O1 -g -Ispank/tests -Iengine/launch -o $@ $< $(LAUNCH_DRIVER) -Wl,-rpath,'$$ORIGIN/driver' -lpthread

.PHONY: check-c-launch
# What it needs must be everywhere, and what it exports is nothing but what it stands in for.
check-c-launch: $(LAUNCH_TESTS) $(LAUNCH_DRIVER) $(BUILD)/libpipefill_launch.so $(BUILD)/tests/preloaded $(BUILD)/tests/wrap_next.so
	@readelf -d $(BUILD)/libpipefill_launch.so | awk '/NEEDED/ && !/libc\.so|ld-linux/ { print "libpipefill_launch.so needs " $$NF; bad = 1 } END { exit bad }'
	@diff <(echo dlsym; sed -n 's/^CALL(\(.*\), .*/\1/p' engine/launch/calls.def | sort) \
		<(echo dlsym; nm -D --defined-only $(BUILD)/libpipefill_launch.so | awk '$$3 != "dlsym" { print $$3 }' | sort)
	@for t in $(LAUNCH_TESTS); do echo "# $$t"; $$t $(LAUNCH_DRIVER) || exit 1; done
	@for switch in on off; do echo "# preloaded, $$switch"; \
		LD_PRELOAD=$(abspath $(BUILD))/libpipefill_launch.so:$(abspath $(BUILD))/tests/wrap_next.so \
		PIPEFILL_ROLE=fill PIPEFILL_MODE=launch PIPEFILL_LAUNCH=$$switch $(BUILD)/tests/preloaded $$switch || exit 1; done
