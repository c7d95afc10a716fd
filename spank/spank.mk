# libpipefill: built, tested and measured.
LIB_SOURCES := $(addprefix spank/,lib_main.c lib_fill.c lib_error.c gate_socket.c message.c learn.c error.c)
LIB_HEADERS := $(wildcard spank/*.h)
C_STANDARD := -std=c11 -D_GNU_SOURCE -Ispank -DPIPEFILL_VERSION='"$(VERSION)"'
C_WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
C_HARDENING := -O2 -g -fPIC -fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2
C_SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LIB_TESTS := $(patsubst spank/tests/%.c,$(BUILD)/tests/%,$(wildcard spank/tests/test_lib_*.c))

$(BUILD)/libpipefill.so: $(LIB_SOURCES) $(LIB_HEADERS) spank/libpipefill.map VERSION | $(BUILD)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -shared -o $@ $(LIB_SOURCES) \
		-Wl,-soname,libpipefill.so.1 -Wl,--version-script=spank/libpipefill.map -Wl,-z,defs,-z,relro,-z,now

$(BUILD)/tests/test_lib_%: spank/tests/test_lib_%.c $(LIB_SOURCES) $(LIB_HEADERS) $(wildcard spank/tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_SANITIZE) -Ispank/tests -o $@ $< $(LIB_SOURCES) -lpthread

$(BUILD)/bench_gate: spank/tests/bench_gate.c $(LIB_SOURCES) $(LIB_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) -O2 -g -Ispank/tests -o $@ $< $(LIB_SOURCES) -lpthread

.PHONY: check-c-lib bench-c
# A container's program loads the library with nothing of ours beside it, and a
# symbol too many could meet one of the program's own.
check-c-lib: $(LIB_TESTS) $(BUILD)/libpipefill.so
	@readelf -d $(BUILD)/libpipefill.so | awk '/NEEDED/ && !/libc\.so|ld-linux/ { print "libpipefill.so needs " $$NF; bad = 1 } END { exit bad }'
	@diff <(grep -o 'pf_[a-z_]*' spank/libpipefill.map | sort) \
		<(nm -D --defined-only $(BUILD)/libpipefill.so | awk '$$2 == "T" { sub(/@.*/, "", $$3); print $$3 }' | sort)
	@for t in $(LIB_TESTS); do echo "# $$t"; $$t || exit 1; done
bench-c: $(BUILD)/bench_gate
	$(BUILD)/bench_gate
