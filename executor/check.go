package executor

// Checked is what doctor wants to know of a pipefilld.yaml.
type Checked struct {
	Devices        int
	RecordingBytes int64  // for each device, 0: off
	TraceDir       string // "": no raw traces
}

// CheckConfig tells whether a pipefilld.yaml may be used; the error names every
// mistake in it.
func CheckConfig(path string) (Checked, error) {
	c, err := loadConfig(path)
	return Checked{len(c.Devices), c.recording, c.TraceDir}, err
}
