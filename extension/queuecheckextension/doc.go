// SPDX-License-Identifier: Apache-2.0

// Package queuecheckextension sets damaged queue files aside before the
// file_storage extension opens them.
//
// file_storage maps its files (bbolt) into memory. A file that was cut short, by
// a full disk, a torn write or a bad copy, passes the open and then ends the
// process with SIGBUS at the first page that is not there, at this start and at
// every later one; other damage ends it with a panic. Its own `recreate` setting
// comes too late. This extension reads every page in use of every file first,
// without bbolt, and renames a file that cannot be read, so that the collector
// starts with an empty queue and logs what happened.
//
// It also creates the directory and tries to write in it, so that a folder that
// cannot hold a queue is an error with a remedy.
//
// List it before file_storage under service::extensions: extensions are created in
// that order. The files are opened as the exporters start, after all extensions have
// started.
package queuecheckextension // import "github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension"
