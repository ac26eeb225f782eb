# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: makes .venv once, and installs the project into it once.

# Idle OpenMP threads sleep instead of spinning: on shared cores everything else is many times slower.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

find_python() { # the newest Python that is new enough
    local name
    for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer is needed; install it, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

install_project() { # install_project EXTRA: what the project needs, and the extra if it has a name
    local extra="$1" stamp wanted
    stamp=".venv/.installed${extra:+-$extra}"
    wanted="$(cksum < pyproject.toml)"
    # the test installation holds everything that a plain one does
    for done in "$stamp" .venv/.installed-test; do
        if [ -f "$done" ] && [ "$(cat "$done")" = "$wanted" ]; then
            return
        fi
    done
    if [ ! -x .venv/bin/python ]; then
        local python
        python="$(find_python)"
        "$python" -m venv .venv
    fi
    echo "installing earth2-corrdiff${extra:+ with what the ${extra}s need} into .venv (PyTorch is large: a few minutes) …"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
    echo "$wanted" > "$stamp"
}
