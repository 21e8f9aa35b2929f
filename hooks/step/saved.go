package step

import (
	"encoding/json"
	"fmt"
	"io/fs"
)

// maxSaved bounds libvirt's file of a VF (virNetDevReadNetConfig reads 128 octets).
const maxSaved = 4096

// SavedConfig is what libvirt saves of a VF before it changes it (src/util/virnetdev.c,
// virNetDevSaveNetConfig).
type SavedConfig struct {
	AdminMAC string `json:"adminMac"`
	MAC      string `json:"mac"`
	VLAN     *int   `json:"vlanTag"`
}

// ReadSaved reads such a file; what is none says nothing.
func ReadSaved(libvirt fs.FS, file string) (c SavedConfig, err error) {
	if libvirt == nil {
		return c, fs.ErrNotExist
	}
	text, err := fs.ReadFile(libvirt, file)
	if err != nil {
		return c, err
	}
	if len(text) > maxSaved || json.Unmarshal(text, &c) != nil {
		return SavedConfig{}, nil
	}
	return c, nil
}

// SavedFile is a VF's file in a folder of libvirt's.
func SavedFile(folder, pf string, number int) string {
	return fmt.Sprintf("%s/%s_vf%d", folder, pf, number)
}
