package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// storage is what the durable parts ask of a disk. Tests put one in between
// that fails, or dies, before or after any step.
type storage interface {
	// replace makes path hold data, whole and on disk, or leaves it as it was.
	replace(path string, data []byte) error
	// put is replace for what may be lost with the machine, but not with the
	// daemon: it waits for no disk.
	put(path string, data []byte) error
	// add appends data to f and returns once it is on disk.
	add(f *os.File, data []byte) error
	remove(path string) error
}

// disk is the real storage.
type disk struct{}

var _ storage = disk{}

func (disk) replace(path string, data []byte) error {
	if err := writeBeside(path, data, (*os.File).Sync); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (disk) put(path string, data []byte) error {
	return writeBeside(path, data, func(*os.File) error { return nil })
}

// writeBeside writes a file beside path, and renames it.
func writeBeside(path string, data []byte, sync func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, sync(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (disk) add(f *os.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("append to %s: %w", f.Name(), err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("append to %s: %w", f.Name(), err)
	}
	return nil
}

func (disk) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or a removal survive power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
