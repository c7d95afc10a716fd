# The SPANK plugin: built against the Slurm of this machine, tested against a fake one.
PLUGIN_PURE := $(addprefix spank/,allocator.c remote.c epilog.c site.c options.c message.c error.c)
PLUGIN_SOURCES := $(PLUGIN_PURE) $(addprefix spank/,plugin.c spank_door.c)
PLUGIN_TESTS := $(patsubst spank/tests/%.c,$(BUILD)/tests/%,$(wildcard spank/tests/test_plugin_*.c))

# Hidden but for the map: a name of ours must not meet one of sbatch's. Slurm's own are found when it loads the plugin.
$(BUILD)/spank_pipefill.so: $(PLUGIN_SOURCES) $(LIB_HEADERS) spank/plugin.map | $(BUILD)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -fvisibility=default -shared -o $@ $(PLUGIN_SOURCES) \
		-Wl,--version-script=spank/plugin.map -Wl,-z,relro,-z,now -lm

$(BUILD)/tests/test_plugin_%: spank/tests/test_plugin_%.c $(PLUGIN_PURE) $(LIB_HEADERS) $(wildcard spank/tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_SANITIZE) -Ispank/tests -o $@ $< $(PLUGIN_PURE) -lpthread -lm

# The plugin's hooks over a Slurm of which every call fails, for real daemons to load.
$(BUILD)/tests/probe_plugin.so: spank/tests/probe_plugin.c spank/plugin.c $(PLUGIN_PURE) $(LIB_HEADERS) spank/plugin.map
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -fvisibility=default -shared -Ispank -o $@ $< $(PLUGIN_PURE) \
		-Wl,--version-script=spank/plugin.map -lm

.PHONY: check-c-plugin
check-c-plugin: $(PLUGIN_TESTS)
	@for t in $(PLUGIN_TESTS); do echo "# $$t"; $$t || exit 1; done
