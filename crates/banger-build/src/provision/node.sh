# Tools that are published as npm packages live below one folder, with a node of their own.
tools=/opt/banger

tool() {
  package=$1 version=$2 command=$3
  has npm || install nodejs npm ca-certificates
  mkdir -p "$tools"
  [ -e "$tools/node_modules/node/package.json" ] ||
    npm install --prefix "$tools" --no-fund --no-audit --save-exact node@22.23.3
  PATH=$tools/node_modules/node/bin:$PATH \
    npm install --prefix "$tools" --no-fund --no-audit --save-exact "$package@$version"
  mkdir -p /usr/local/bin
  cat >"/usr/local/bin/$command" <<EOF
#!/bin/sh
PATH=\$PATH:$tools/node_modules/node/bin
export PATH
exec $tools/node_modules/.bin/$command "\$@"
EOF
  chmod 0755 "/usr/local/bin/$command"
  npm cache clean --force >/dev/null 2>&1 || true
}
