package executor

// CheckConfig tells whether a pipefilld.yaml may be used; the error names every
// mistake in it.
func CheckConfig(path string) error {
	_, err := loadConfig(path)
	return err
}
