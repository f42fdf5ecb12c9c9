;; Opens, asks after, makes, moves and removes what is outside of its folder, by .., by absolute paths and by links
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_set_times"
    (func $set_times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)

  ;; Paths, each after its length; the last is empty. In the folder `to-file`, `to-folder` and `to-nothing` are links to
  ;; ../outside, `to-link` one to `to-file`, `to-absolute` to /etc/passwd, `to-root` to /, `to-proc` to /proc/self.
  (data (i32.const 1024)
    "\11../outside/secret"
    "\13./../outside/secret"
    "\18sub/../../outside/secret"
    "\18own/../../outside/secret"
    "\02.."
    "\03../"
    "\04../."
    "\09sub/../.."
    "\01/"
    "\0b/etc/passwd"
    "\0c//etc/passwd"
    "\16../../../../etc/passwd"
    "\12/proc/self/environ"
    "\0a../outside"
    "\10to-folder/secret"
    "\11to-folder/planted"
    "\12to-root/etc/passwd"
    "\0fto-proc/environ"
    "\17to-proc/root/etc/passwd"
    "\0cto-proc/fd/0"
    "\13to-proc/cwd/planted"
    "\0a../planted"
    "\10/tmp/vyr-planted"
    "\00")
  ;; Those that can be files of its own where there are no links.
  (data (i32.const 2048)
    "\07to-file"
    "\07to-link"
    "\0ato-nothing"
    "\0bto-absolute"
    "\09to-folder"
    "\07to-root"
    "\09made-file"
    "\0bmade-folder"
    "\12made-folder/secret"
    "\07made-up"
    "\16made-up/outside/secret"
    "\00")
  (data (i32.const 3072) "own")
  (data (i32.const 3080) "/etc/passwd")
  (data (i32.const 3100) "../outside/secret")
  (data (i32.const 3120) "../outside")
  (data (i32.const 3136) "..")
  (data (i32.const 3140) "made-file")
  (data (i32.const 3152) "made-folder")
  (data (i32.const 3168) "made-absolute")
  (data (i32.const 3184) "made-up")
  (data (i32.const 3200) "stolen")
  (data (i32.const 3210) "../outside/victim")
  (data (i32.const 3230) "to-file")
  (data (i32.const 3240) "../outside/moved")
  (data (i32.const 3260) "../outside/folder")

  ;; What is not refused is an escape.
  (func $denied (param $errno i32)
    (if (i32.eqz (local.get $errno)) (then (call $proc_exit (i32.const 66)))))

  (func $open (param $at i32) (param $length i32) (param $follow i32) (param $oflags i32) (param $rights i64)
    (call $denied (call $path_open (i32.const 3) (local.get $follow) (local.get $at) (local.get $length)
      (local.get $oflags) (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 512))))

  (func $try (param $at i32) (param $length i32) (local $oflags i32)
    ;; Each with and without following: as it is, made, as a folder, made anew, emptied.
    (loop $more
      (call $open (local.get $at) (local.get $length) (i32.const 1) (local.get $oflags) (i64.const 2))
      (call $open (local.get $at) (local.get $length) (i32.const 0) (local.get $oflags) (i64.const 2))
      (call $open (local.get $at) (local.get $length) (i32.const 1) (local.get $oflags) (i64.const 66))
      (local.set $oflags (i32.add (local.get $oflags) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $oflags) (i32.const 16))))
    (call $denied (call $stat (i32.const 3) (i32.const 1) (local.get $at) (local.get $length) (i32.const 512)))
    (call $denied (call $set_times (i32.const 3) (i32.const 1) (local.get $at) (local.get $length)
      (i64.const 1) (i64.const 1) (i32.const 5)))
    (call $denied (call $link (i32.const 3) (i32.const 1) (local.get $at) (local.get $length)
      (i32.const 3) (i32.const 3200) (i32.const 6))))

  (func $try-all (param $at i32) (local $length i32)
    (loop $each
      (local.set $length (i32.load8_u (local.get $at)))
      (if (local.get $length)
        (then
          (call $try (i32.add (local.get $at) (i32.const 1)) (local.get $length))
          (local.set $at (i32.add (i32.add (local.get $at) (local.get $length)) (i32.const 1)))
          (br $each)))))

  (func (export "_start") (local $no-links i32)
    ;; A link that leads out may be made; what matters is what can be done with it. A state has none.
    (local.set $no-links (call $symlink (i32.const 3100) (i32.const 17) (i32.const 3) (i32.const 3140) (i32.const 9)))
    (drop (call $symlink (i32.const 3120) (i32.const 10) (i32.const 3) (i32.const 3152) (i32.const 11)))
    (drop (call $symlink (i32.const 3136) (i32.const 2) (i32.const 3) (i32.const 3184) (i32.const 7)))
    (call $denied (call $symlink (i32.const 3080) (i32.const 11) (i32.const 3) (i32.const 3168) (i32.const 13)))
    (call $try-all (i32.const 1024))
    (if (i32.eqz (local.get $no-links)) (then (call $try-all (i32.const 2048))))

    (call $denied (call $mkdir (i32.const 3) (i32.const 3240) (i32.const 16)))
    (call $denied (call $rmdir (i32.const 3) (i32.const 3260) (i32.const 17)))
    (call $denied (call $unlink (i32.const 3) (i32.const 3210) (i32.const 17)))
    (call $denied (call $rename (i32.const 3) (i32.const 3210) (i32.const 17) (i32.const 3) (i32.const 3200) (i32.const 6)))
    (call $denied (call $rename (i32.const 3) (i32.const 3072) (i32.const 3) (i32.const 3) (i32.const 3240) (i32.const 16)))
    (call $denied (call $link (i32.const 3) (i32.const 0) (i32.const 3210) (i32.const 17)
      (i32.const 3) (i32.const 3200) (i32.const 6)))
    (call $denied (call $symlink (i32.const 3072) (i32.const 3) (i32.const 3) (i32.const 3240) (i32.const 16)))
    (call $proc_exit (i32.const 3))))
