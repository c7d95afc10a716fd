# The NCCL profiler plugin: built without NCCL, tested under a host of our own.
NCCL_SOURCES := engine/nccl/nccl_profiler.c engine/nccl/cycle.c
NCCL_HEADERS := $(wildcard engine/nccl/*.h)

# Hidden but for the one symbol that NCCL looks for.
$(BUILD)/libnccl-profiler-pipefill.so: $(NCCL_SOURCES) $(NCCL_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) engine/nccl/nccl.map | $(BUILD)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -shared -o $@ $(NCCL_SOURCES) $(LIB_SOURCES) -lpthread \
		-Wl,--version-script=engine/nccl/nccl.map -Wl,-z,defs,-z,relro,-z,now

$(BUILD)/tests/test_nccl_profiler: engine/nccl/tests/test_nccl_profiler.c $(NCCL_SOURCES) $(NCCL_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) $(wildcard spank/tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_SANITIZE) -Ispank/tests -o $@ $< $(NCCL_SOURCES) $(LIB_SOURCES) -lpthread

.PHONY: check-c-nccl
check-c-nccl: $(BUILD)/tests/test_nccl_profiler $(BUILD)/libnccl-profiler-pipefill.so
	@nm -D --defined-only $(BUILD)/libnccl-profiler-pipefill.so | awk '$$3 != "ncclProfiler_v4" { print "exports " $$3; bad = 1 } END { exit bad }'
	@echo "# $<"; $<
