tool opencode-ai 1.18.33 opencode
if has systemctl; then
  cat >/etc/systemd/system/opencode.service <<'EOF'
[Unit]
Description=opencode
After=network.target
[Service]
Environment=HOME=/root
WorkingDirectory=/root
ExecStart=/usr/local/bin/opencode serve --hostname 0.0.0.0 --port 4096
Restart=on-failure
[Install]
WantedBy=multi-user.target
EOF
  systemctl enable opencode.service
fi
